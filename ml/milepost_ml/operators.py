"""The operators a recipe may use: an explicit table, checked before anything is computed.

A recipe's graph is data.  Each node names an entry of this table and gives one value for each of
its arguments, in order; the interpreter (`graph`) then calls the ATen operator of that name.  What
is listed here computes, deterministically on one CPU thread, from its arguments and from torch's
generator, which is seeded before every step: nothing listed reads files, calls back or chooses the
shape of its result by values.

Argument kinds: T tensor, N tensor or number, n number, f float, i integer, b truth value, s word,
e einsum equation, d dtype, I integers, F floats, L tensors, O tensors some of which may be absent,
M the result of an operator with several results.  "?" allows null; after "*" stand keyword
arguments by name.  Arguments of a PyTorch operator that the table leaves out keep their default.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_TABLE: Final = """
abs: T
add.Scalar: T n n
add.Tensor: T N * alpha=n
add_.Tensor: T N * alpha=n
addcmul: T T T * value=n
addmm: T T T * beta=n alpha=n
alias: T
amax: T I b
amin: T I b
arange.start_step: n n n * dtype=d?
arange.start: n n * dtype=d?
arange: n * dtype=d?
atan: T
avg_pool1d: T I I I b b
avg_pool2d: T I I I b b i?
avg_pool3d: T I I I b b i?
adaptive_avg_pool1d: T I
adaptive_avg_pool2d: T I
adaptive_avg_pool3d: T I
adaptive_max_pool2d: T I
baddbmm: T T T * beta=n alpha=n
batch_norm: T T? T? T? T? b f f b
bilinear: T T T T?
binary_cross_entropy: T T T? i
binary_cross_entropy_with_logits: T T T? T? i
bitwise_and.Tensor: T N
bitwise_not: T
bitwise_or.Tensor: T N
bmm: T T
broadcast_tensors: L
cat: L i
ceil: T
celu: T n
channel_shuffle: T i
chunk: T i i
clamp.Tensor: T T? T?
clamp: T n? n?
clamp_max: T n
clamp_min: T n
clone: T
concat: L i
constant_pad_nd: T I n
contiguous: T
conv1d.padding: T T T? I s I i
conv1d: T T T? I I I i
conv2d.padding: T T T? I s I i
conv2d: T T T? I I I i
conv3d.padding: T T T? I s I i
conv3d: T T T? I I I i
conv_transpose1d: T T T? I I I i I
conv_transpose2d.input: T T T? I I I i I
cos: T
cosine_embedding_loss: T T T f i
cosine_similarity: T T i f
cross_entropy_loss: T T T? i i f
cumsum: T i * dtype=d?
detach: T
diff: T i i T? T?
diagonal: T i i i
div.Scalar: T n
div.Tensor: T N
div.Tensor_mode: T N * rounding_mode=s?
div_.Tensor: T N
dot: T T
dropout: T f b
dropout_: T f b
einsum: e L
elu: T n n n
elu_: T n n n
embedding: T T i b b
eq.Scalar: T n
eq.Tensor: T N
erf: T
exp: T
expand: T I
expand_as: T T
expm1: T
feature_dropout: T f b
flatten.using_ints: T i i
flip: T I
floor: T
full: I n * dtype=d?
full_like: T n * dtype=d?
gather: T i T
ge.Scalar: T n
ge.Tensor: T N
gelu: T * approximate=s
getitem: M i
glu: T i
group_norm: T i T? T? f b
gru.input: T T L b i f b b b
gt.Scalar: T n
gt.Tensor: T N
hardshrink: T n
hardsigmoid: T
hardswish: T
hardtanh: T n n
hardtanh_: T n n
hinge_embedding_loss: T T f i
huber_loss: T T i f
im2col: T I I I I
index.Tensor: T O
index_select: T i T
instance_norm: T T? T? T? T? b f f b
isnan: T
kl_div: T T i * log_target=b
l1_loss: T T i
layer_norm: T I T? T? f b
le.Scalar: T n
le.Tensor: T N
leaky_relu: T n
leaky_relu_: T n
lerp.Scalar: T T n
linalg_vector_norm: T n I? b * dtype=d?
linear: T T T?
log1p: T
log: T
log_sigmoid: T
log_softmax.int: T i d?
logical_and: T T
logical_not: T
logical_or: T T
logsumexp: T I b
lstm.input: T L L b i f b b b
lt.Scalar: T n
lt.Tensor: T N
margin_ranking_loss: T T T f i
masked_fill.Scalar: T T n
masked_fill.Tensor: T T T
masked_fill_.Scalar: T T n
matmul: T T
max.dim: T i b
max: T
max_pool1d: T I I I I b
max_pool2d: T I I I I b
max_pool3d: T I I I I b
maximum: T T
mean.dim: T I? b * dtype=d?
mean: T * dtype=d?
meshgrid.indexing: L * indexing=s
min.dim: T i b
min: T
minimum: T T
mish: T
mm: T T
movedim.int: T i i
movedim.intlist: T I I
mse_loss: T T i
mul.Scalar: T n
mul.Tensor: T N
mul_.Tensor: T N
multi_margin_loss: T T n n T? i
mv: T T
narrow: T i i i
ne.Scalar: T n
ne.Tensor: T N
neg: T
nll_loss: T T T? i i
nll_loss2d: T T T? i i
nll_loss_nd: T T T? i i
norm.ScalarOpt_dim: T n? I b
numpy_T: T
one_hot: T i
ones: I * dtype=d?
ones_like: T * dtype=d?
outer: T T
pad: T I s f?
pairwise_distance: T T f f b
permute: T I
pixel_shuffle: T i
pixel_unshuffle: T i
poisson_nll_loss: T T b b f i
pow.Scalar: n T
pow.Tensor_Scalar: T n
pow.Tensor_Tensor: T T
prelu: T T
prod: T * dtype=d?
rand: I * dtype=d?
rand_like: T * dtype=d?
randn: I * dtype=d?
randn_like: T * dtype=d?
reciprocal: T
relu6: T
relu: T
relu_: T
remainder.Scalar: T n
repeat: T I
reshape: T I
rms_norm: T I T? f?
roll: T I I
round: T
rsqrt: T
rsub.Scalar: T n n
rsub.Tensor: T T * alpha=n
scalar_tensor: n * dtype=d?
scaled_dot_product_attention: T T T T? f b * scale=f? enable_gqa=b
select.int: T i i
selu: T
sigmoid: T
sign: T
silu: T
silu_: T
sin: T
slice.Tensor: T i i? i? i
smooth_l1_loss: T T i f
soft_margin_loss: T T i
softmax.int: T i d?
softplus: T n n
softshrink: T n
split.Tensor: T i i
split.sizes: T I i
split_with_sizes: T I i
sqrt: T
square: T
squeeze.dim: T i
squeeze.dims: T I
squeeze: T
stack: L i
std.correction: T I? * correction=n? keepdim=b
sub.Scalar: T n n
sub.Tensor: T N * alpha=n
sub_.Tensor: T N * alpha=n
sum.dim_IntList: T I? b * dtype=d?
sum: T * dtype=d?
swapaxes: T i i
t: T
tan: T
tanh: T
threshold: T n n
to.dtype: T d b b
transpose.int: T i i
tril: T i
triplet_margin_loss: T T T f f f b i
triu: T i
type_as: T T
unbind.int: T i
unflatten.int: T i I
unfold: T i i i
unsqueeze: T i
upsample_bilinear2d.vec: T I? b F?
upsample_nearest2d.vec: T I? F?
var.correction: T I? * correction=n? keepdim=b
var.dim: T I? b b
var: T b
view: T I
view_as: T T
where.ScalarOther: T T n
where.ScalarSelf: T n T
where.self: T T T
zeros: I * dtype=d?
zeros_like: T * dtype=d?
"""

MULTIPLE: Final = frozenset(
    {
        "adaptive_max_pool2d",
        "broadcast_tensors",
        "chunk",
        "gru.input",
        "lstm.input",
        "max.dim",
        "meshgrid.indexing",
        "min.dim",
        "split.Tensor",
        "split.sizes",
        "split_with_sizes",
        "unbind.int",
    }
)
"""Operators with several results; `getitem` picks one."""

DTYPES: Final = ("float32", "float64", "int64", "int32", "uint8", "bool")
"""What a dtype argument may name."""

WORDS: Final = frozenset(
    {
        *("none", "tanh", "trunc", "floor", "constant", "reflect", "replicate", "circular"),
        *("valid", "same", "ij", "xy"),
    }
)
"""What a word argument may say."""

EQUATION: Final = re.compile(r"[a-zA-Z.]{1,40}(, ?[a-zA-Z.]{1,40}){0,7}( ?-> ?[a-zA-Z.]{0,40})?")

INSTEAD: Final = {
    "bernoulli": "use dropout, or compare rand_like with a number",
    "bernoulli_": "use dropout, or compare rand_like with a number",
    "copy_": "assign to a new tensor instead of writing into an existing one",
    "embedding_bag": "use embedding followed by sum or mean over the bag",
    "fill_": "use full or masked_fill",
    "index_put": "use where or gather instead of assigning to an index",
    "index_put_": "use where or gather instead of assigning to an index",
    "item": "keep numbers as tensors in forward; .item() and float() take them out of the graph",
    "lift_fresh_copy": "keep constant tensors as buffers: self.register_buffer(name, tensor)",
    "masked_select": "multiply by the mask or use masked_fill: shapes must not depend on values",
    "nonzero": "use where with three arguments: shapes must not depend on values",
    "normal_": "use randn_like",
    "scatter_add": "use one_hot and matmul, or index_select",
    "scatter_add_": "use one_hot and matmul, or index_select",
    "to.device": "keep model and data on the CPU",
    "uniform_": "use rand_like",
    "wrap_with_autocast": "enter autocast in the loop and declare it: autocast='bfloat16'",
    "wrap_with_set_grad_enabled": "use .detach() instead of torch.no_grad() inside forward",
}
"""What to write instead of operators that people try."""


class Argument(NamedTuple):
    """One argument of an operator; `name` is set for keyword arguments only."""

    kind: str
    optional: bool
    name: str | None


def _parse(line: str) -> tuple[str, tuple[Argument, ...]]:
    operator, _, rest = line.partition(": ")
    positional, _, keywords = rest.partition("*")
    arguments = [Argument(kind[0], kind.endswith("?"), None) for kind in positional.split()]
    for word in keywords.split():
        name, _, kind = word.partition("=")
        arguments.append(Argument(kind[0], kind.endswith("?"), name))
    return operator, tuple(arguments)


OPERATORS: Final[dict[str, tuple[Argument, ...]]] = dict(
    _parse(line) for line in _TABLE.strip().splitlines()
)
"""Operator name ("linear", "add.Tensor"; a bare name is the `default` overload) -> arguments."""


def get_instead(operator: str) -> str:
    """What to write instead of an operator that is not listed."""
    hint = INSTEAD.get(operator) or INSTEAD.get(operator.partition(".")[0])
    return hint or "write it with listed operators (milepost_ml/operators.py has the list)"
