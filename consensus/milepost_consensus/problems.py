"""Every refusal by its slug: what it means and what to do.

The same text answers `milepost explain SLUG` and the node's `/problems/SLUG`.  An error's own
message says what happened this time; the text here says why that is refused at all.
"""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """The long text of one slug."""

    title: str
    meaning: str
    remedy: str


PROBLEMS: dict[str, Problem] = {
    "already-said": Problem(
        "Said already",
        "Every member has one say per subject: one hold per record, one answer per duty, one"
        " witness per interval, one panel answer per step. This one is on the chain already.",
        "Nothing to do. If you see it for a key that you did not use, somebody else may hold"
        " that key.",
    ),
    "ambiguous": Problem(
        "Several fit",
        "Several submissions begin with the digits that were given.",
        "Give more digits of the id.",
    ),
    "archive-failed": Problem(
        "Object store did not answer",
        "The node keeps files of decided submissions in an object store, which did not answer or"
        " no longer has a file that it had. The node goes on: it asks other nodes for files.",
        "Look at the reason in its log: credentials in the node's environment, the URL and endpoint"
        " under [archive] in node.toml, the bucket's policy. It tries again by itself.",
    ),
    "bad-backup": Problem(
        "Not a backup of a node",
        "The file is not one that `milepost node backup` wrote, or not all of it. Nothing runs from"
        " the folder that was begun.",
        "Delete the folder that was begun and restore another file. Without any backup a node needs"
        " its node.toml, genesis.json and node.key; everything else comes from its peers.",
    ),
    "bad-block": Problem(
        "Block refused",
        "A block, header or certificate does not extend the chain it claims to extend, or lacks"
        " the signatures of more than two thirds of the validators.",
        "If your own node reports this of many peers, compare the network id in `milepost status`:"
        " the peer may follow another genesis.",
    ),
    "bad-config": Problem(
        "Setting out of range",
        "A setting has a value that no node can run with.",
        "The message names the setting, the value and what is allowed. Correct it and start again.",
    ),
    "bad-data": Problem(
        "Data cannot be recorded",
        "A run draws its batches from records known in advance: tensors with equally many"
        " rows, inputs first and the target last, dense, on the CPU, of a common type.",
        "The message names what is wrong with the data. Streams and data sets with random"
        " augmentation cannot be recorded; pass plain tensors, and flips and crops to the run:"
        " `augment=[milepost.Flip(), milepost.Crop(padding=4)]`.",
    ),
    "bad-digest": Problem(
        "File is not what its name says",
        "Files are named by the SHA-256 of their bytes: 64 lowercase hex digits. What arrived has"
        " another digest, or the name is none.",
        "Send the file again. If that fails again, it changed on disk while it was being sent.",
    ),
    "bad-encoding": Problem(
        "Not the canonical bytes",
        "Every ledger object has exactly one byte form. Bytes that decode but would be written"
        " differently are refused, so that nobody can make two identities of one object.",
        "Build transactions with this package rather than by hand.",
    ),
    "bad-genesis": Problem(
        "Genesis unusable",
        "The genesis file names members or constants with which no network can start.",
        "Fetch the genesis file again from whoever runs the network, or write a new network with"
        " `milepost dev`.",
    ),
    "bad-key": Problem(
        "Key file unusable",
        "A key file holds one private seed as 64 hex digits, or the same encrypted with a"
        " passphrase. The file named is missing, holds something else, or does not open.",
        "Name the right file with `--key`, or in `milepost.toml`. A lost key cannot be recovered;"
        " the network has to admit a new one.",
    ),
    "bad-manifest": Problem(
        "Manifest unusable",
        "The manifest of a submission names each file of the record once, with digest and"
        " size, and nothing else.",
        "Submit the run folder with `milepost submit`; manifests are not written by hand.",
    ),
    "bad-message": Problem(
        "Consensus message refused",
        "A proposal or vote is one that no correct member sends.",
        "Nothing to do on your side: the message was dropped and counted.",
    ),
    "bad-name": Problem(
        "Name cannot be used",
        "A run's name becomes a folder and a label on chain.",
        "Use up to 64 letters, digits, dots, underscores and hyphens, starting with a letter"
        " or digit.",
    ),
    "bad-parent": Problem(
        "Parent cannot be used",
        "A run starts from the model of a parent only where that submission is VALID and its model"
        " is the one in the run's first snapshot. Otherwise the chain would show a lineage that it"
        " has not checked.",
        "Name the submission of the model that the run started from, once it is VALID, or none.",
    ),
    "bad-path": Problem(
        "Inclusion path does not fit",
        "A Merkle path must lead from the object to the root that was signed. This one leads"
        " elsewhere, so the object was not part of what was signed.",
        "Fetch the proof again. If it fails again, do not trust the object.",
    ),
    "bad-plan": Problem(
        "Plan cannot be recorded",
        "Steps, interval length, batch size or seed lie outside what a record can hold.",
        "The message names the value and what is possible.",
    ),
    "bad-profile": Problem(
        "Arithmetic profile unknown",
        "Verifiers can only repeat arithmetic they implement. The profile named in the submission"
        " is none of these.",
        "Record with a profile that `milepost status` lists for the network: `exact`, `rounded`,"
        " `class` or `tolerance`.",
    ),
    "bad-proof": Problem(
        "Proof inconsistent",
        "The proof file is not one, or its parts belong to different submissions. No honest"
        " node writes such a file: it was put together by hand or damaged.",
        "Fetch the proof again from a node. If it fails again, do not trust it.",
    ),
    "bad-recipe": Problem(
        "Recipe cannot be used",
        "A recipe declares a computation that every verifier repeats. This one breaks a"
        " limit, refers to values that do not exist, or its parts do not fit together.",
        "Record the run again with this version; recipes are not edited by hand.",
    ),
    "bad-record": Problem(
        "Record contradicts itself",
        "The parts of a training record must fit together: one snapshot more than intervals, step"
        " digests that lead from snapshot to snapshot, scores that follow from the snapshots.",
        "Record the run again. Files of a record cannot be edited afterwards.",
    ),
    "bad-request": Problem(
        "Request not understood",
        "The request lacks something, or something in it has the wrong form.",
        "The message names the part. `/openapi.json` on the node describes every request.",
    ),
    "bad-run": Problem(
        "Run folder unreadable",
        "A file for people in the run folder (run.json, journal.jsonl, selfcheck.json) is not what"
        " the recorder writes.",
        "If it was edited, restore it. The record itself may still be fine: `milepost submit`"
        " reads other files.",
    ),
    "bad-signature": Problem(
        "Signature does not verify",
        "The signature was not made by the stated key over these bytes for this network. The"
        " usual causes are a key of another network or bytes changed on the way.",
        "Check which key the command used (`--key`) and that the network id is the one you meant.",
    ),
    "bad-tolerance": Problem(
        "Tolerance cannot be used",
        "Profile `tolerance` accepts an interval whose end lies within a share of its movement from"
        " where a verifier's retraining ends. Above 1e-2, or over more than ten steps, the noise of"
        " an honest machine and the effect of one poisoned example are alike, so that the verdict"
        " would mean nothing. The other profiles compare all bits and have no tolerance.",
        "Record with `every=` 10 or less and a `tolerance=` from 1e-9 to 1e-2, or with another"
        " profile and no tolerance. Models with batch normalisation need `every=1`. `exact` gives"
        " every machine the same bits.",
    ),
    "bad-transaction": Problem(
        "Transaction refused",
        "The ledger rules do not allow this transaction in the present state.",
        "The message names the rule. Nothing was stored.",
    ),
    "bad-trust": Problem(
        "Trust file unusable",
        "A trust file lists the validators of one network and how many of them must sign,"
        " more than two thirds. This one does not.",
        "Get the trust file again from whoever runs the network; `milepost dev` writes"
        " network.trust.",
    ),
    "bad-usage": Problem(
        "Command or argument does not fit",
        "The command names something that does not exist, or values that contradict each other.",
        "The message says which. `milepost COMMAND --help` lists what is possible.",
    ),
    "busy": Problem(
        "Node is busy",
        "A node validates only so many submissions at the same time, each of which means reading a"
        " whole record, and holds only so many bytes of unfinished requests.",
        "Send it again in a while, or to another node. Uploaded files stay for that.",
    ),
    "cannot-capture": Problem(
        "Model cannot be captured",
        "Verifiers run no code of yours: forward and loss are captured once as a graph of"
        " listed operators. This model cannot be traced as one graph, or the graph does not"
        " repeat what the model does.",
        "Keep forward free of branches on values, .item(), other libraries and randomness"
        " that is not torch's, then record again.",
    ),
    "cannot-resume": Problem(
        "Unfinished run cannot go on",
        "A resumed run must be the one that was begun: the same data, model, optimizer, seed and"
        " settings, recorded by one process at a time, and at least its first snapshot on disk.",
        "Undo the difference that the message names, or record a new run without resume=True.",
    ),
    "cannot-tell": Problem(
        "Neither yes nor no",
        "Something that is needed for an answer is missing, and a guess is not an answer.",
        "The message says what is missing.",
    ),
    "client-error": Problem(
        "Not done",
        "The command could not do what was asked.",
        "The message names the reason.",
    ),
    "closed": Problem(
        "Too late or too early",
        "Each answer is taken only while its phase lasts: attests and witnesses while"
        " intervals are retraced, panel answers until the step is settled, nothing after the"
        " verdict.",
        "Look at the submission's phase with `milepost show`. A node that is often too late"
        " is too slow for the network's windows.",
    ),
    "closure": Problem(
        "Step through a closure",
        "A recorded step is one gradient and one update. An optimizer that is given a"
        " closure, such as LBFGS, computes the loss as often as it likes within a step.",
        "Use SGD, Adam or AdamW: compute the loss, call `loss.backward()`, then"
        " `opt.step()` without an argument.",
    ),
    "compiled-model": Problem(
        "Model is compiled",
        "torch.compile generates kernels for the machine it runs on, and their results"
        " differ from machine to machine in the last bits.",
        "Pass the module itself, and leave out `torch.compile(model)` and"
        " `model.compile()` for the run that is recorded.",
    ),
    "data-changed": Problem(
        "Data is not what was recorded",
        "Each step of a record commits to the records it saw. The data file holds other records,"
        " so retraining from it would not give the recorded steps.",
        "Restore the data file that the recorder wrote, or record the run again.",
    ),
    "device-class": Problem(
        "This machine cannot repeat the arithmetic",
        "A run of profile `class` repeats bit for bit only on the device class on which it was"
        " recorded; runs of the other profiles need a verifier that knows their version."
        " A verifier that does not stays silent, because its answer would be wrong.",
        "Record with profile `exact`, which every processor repeats, or with what the network's"
        " verifiers retrain (`milepost status` lists it).",
    ),
    "distributed-model": Problem(
        "Model is spread over processes or devices",
        "DataParallel, DistributedDataParallel and FSDP sum gradients over devices or"
        " processes, in an order that a single verifier does not have; nor does it have several"
        " devices for the parts of one model.",
        "Pass the wrapped module (`model.module`) and train in one process on one device;"
        " `accumulate=` gives the same batch size in smaller parts.",
    ),
    "duplicate": Problem(
        "Submitted already",
        "The same submission, or another one of the same model, is on the chain and was not"
        " rejected.",
        "`milepost show` prints the one that exists. To submit a rejected or undecided record"
        " again, give the run another name.",
    ),
    "expired": Problem(
        "Transaction out of its time",
        "A transaction names the last height at which a block may carry it, and may not look"
        " further ahead than the nodes remember.",
        "Sign and send it again; the command does that by itself.",
    ),
    "few-verifiers": Problem(
        "Few can retrain this device class",
        "A run is retraced by verifiers that stated on chain that they serve its device class."
        " Fewer of them than a sub-quorum has are of another operator than the submitter's. The"
        " network would take the run, and the verdict would say of how many verifiers its quorum"
        " was elected: the fewer, the easier they collude.",
        "Record with profile `exact` or `rounded`, which every machine repeats; `milepost status`"
        " lists who serves what. To submit nevertheless, add `--few-verifiers`.",
    ),
    "folder-in-use": Problem(
        "Folder holds something else",
        "The command writes a folder of its own and never deletes what it did not write. A"
        " network's members and rule are fixed in its genesis and cannot be changed by an option.",
        "Choose another `--dir`, or `--fresh` where the folder is an old network.",
    ),
    "grad-scaler": Problem(
        "Step made by a GradScaler",
        "A GradScaler multiplies the loss by a scale that depends on earlier overflows,"
        " and leaves out steps. Neither is part of a snapshot, so that no interval can be"
        " repeated alone.",
        "Train in bfloat16, which needs no scaling: `autocast='bfloat16'`, or in float32.",
    ),
    "home-in-use": Problem(
        "Home folder in use",
        "A node process runs from this home already. A second one would sign with the same key,"
        " which the network takes for lying.",
        "Stop the other process first. If it crashed, its lock is gone with it.",
    ),
    "incomplete": Problem(
        "Record incomplete",
        "A record is submitted whole: recipe, data, all snapshots and all step commitments of a"
        " run that went to its last step. Something of that is missing or cannot be read.",
        "Let the script run to the end and call run.finish(), or restore the file that the message"
        " names.",
    ),
    "internal-error": Problem(
        "Defect of Milepost",
        "The command met a case that its authors did not think of. This is no statement about your"
        " model or record.",
        "Run it again with `milepost -v ...` and report what it prints.",
    ),
    "invalid-input": Problem(
        "Input refused",
        "Something that was sent breaks a rule.",
        "The message names it.",
    ),
    "key-in-use": Problem(
        "Key used elsewhere",
        "A message that is signed with the node's key was not signed by this node, as far as its"
        " database goes back. Two processes that sign with one key contradict each other, which"
        " the network takes for lying; so this node follows the ledger, serves it, and signs"
        " nothing, after a restart as well.",
        "Find out where else the key is used, as in a copied home, and stop it there. Then stop"
        " this node, delete its chain.db, chain.db-wal and chain.db-shm, and start it: it fetches"
        " the chain from its peers and signs again once it has followed two heights. The same"
        " helps after a backup was restored: the database must not be older than the signatures.",
    ),
    "key-readable": Problem(
        "Key file open to others",
        "Others on this machine can read the key file and could sign in its name.",
        "Make it yours alone with chmod 600. If somebody may have read it, have the network"
        " replace the key.",
    ),
    "known-answer-failed": Problem(
        "This machine computes otherwise than it vouched for",
        "Before it retrains, a node computes a short training of which the result is known. It got"
        " another one: PyTorch was replaced, a setting or a thread count changed, the machine moved"
        " to another processor, or memory is failing. The node refuses such tasks and withdraws the"
        " device class on chain, because its answers would be wrong and be struck.",
        "Look at what changed on the machine: packages, environment variables such as"
        " ATEN_CPU_CAPABILITY, the processor. Undo it, or test the memory, and start the node"
        " again; it then states anew what it repeats.",
    ),
    "mempool-full": Problem(
        "Too many transactions wait",
        "A node keeps a limited number of waiting transactions, and of each sender. Blocks make"
        " room.",
        "Send it again after the next block. Uploaded files stay for that.",
    ),
    "method-not-allowed": Problem(
        "Method not allowed",
        "The path exists, but not for this HTTP method.",
        "`/openapi.json` on the node describes every request.",
    ),
    "missing-blobs": Problem(
        "Files of the record are missing",
        "A submission is validated from the files on the node that takes it, and some are not"
        " there.",
        "Upload those that the answer lists and send the submission again; `milepost submit` does"
        " both.",
    ),
    "missing-extra": Problem(
        "Part of Milepost not installed",
        "The command needs a package that is not installed here. The light installation verifies"
        " models; recording, retracing and the demo need more.",
        "Run the pip command that the message names.",
    ),
    "model-changed": Problem(
        "Model file is not the last snapshot",
        "model.safetensors in the run folder holds other values than the last snapshot of the"
        " record. The network would vouch for the snapshot, and the file would not verify.",
        "Submit the model as it was trained: put back the file that the recorder wrote. Record the"
        " further training as a run of its own.",
    ),
    "network-running": Problem(
        "Network runs already",
        "Something answers at the address of one of the network's nodes. Starting the same node"
        " twice would make it look dishonest.",
        "Use the running network, or stop it in its terminal first.",
    ),
    "no-exact-kernel": Problem(
        "No exact arithmetic for an operator",
        "Profile `exact` computes every operator in a written order, so that all processors get"
        " the same bits. The operator named has no such rule yet, or not for these arguments.",
        "Leave `profile=` out and the run is recorded with the next profile that computes it; or"
        " use another operator in the model. Code in the loop that is not part of the run, such as"
        " an evaluation, goes inside `with run.paused():`.",
    ),
    "no-initial-rule": Problem(
        "No rule for initial weights",
        "Initial weights that follow from the seed need a distribution for every tensor. Layers"
        " that PyTorch initialises by rule have one; this tensor belongs to a layer that does it in"
        " its own way, or the name given is no tensor.",
        "Declare it: `milepost.Run(..., initial={name: Normal(0.02)})`, or Uniform, Constant, from"
        " milepost_ml.initial.",
    ),
    "no-network": Problem(
        "No network named",
        "Nothing says which nodes to ask: neither an option, nor MILEPOST_NETWORK, nor a"
        " milepost.toml here.",
        "Start one on this machine with `milepost dev`, or name one with `--network` or `--node`.",
    ),
    "no-port": Problem(
        "No free ports",
        "The nodes of a network on this machine need neighbouring free ports on 127.0.0.1, and"
        " none were found.",
        "Close what uses them, or start fewer nodes.",
    ),
    "no-proof": Problem(
        "No proof file",
        "A proof file shows a verdict offline. Without one there is nothing to check the model"
        " against, which says nothing about the model itself.",
        "Ask the submitter for model.proof.json, or submit the run: the file is written with the"
        " verdict. Name it with `--proof`.",
    ),
    "no-seed": Problem(
        "Registration without a seed",
        "A registration gets the seed of its run from the beacon some blocks later, when nobody can"
        " choose it any more. A run that was submitted before cannot have used it.",
        "Wait for the seed, train with it, and submit that run.",
    ),
    "no-such-thing": Problem(
        "Nothing of that name",
        "There is no such file, folder, submission, block or node.",
        "Check the spelling. Submissions are written sub_ and at least 6 digits of their id;"
        " `milepost status` lists them.",
    ),
    "no-trust": Problem(
        "No trust file",
        "A proof is only worth the signatures on it, so somebody must say whose signatures count."
        " Nobody is trusted by default.",
        "Get network.trust from a source of your own, compare its fingerprint, and name it with"
        " `--trust`.",
    ),
    "node-died": Problem(
        "Node process ended",
        "A node process on this machine ended by itself.",
        "The message shows the end of its log; the whole lies in node.log in the node's folder."
        " Starting the network again continues its chain.",
    ),
    "node-failed": Problem(
        "Node failed",
        "A node met something on its machine that it cannot work around.",
        "The message and node.log in the node's home say what.",
    ),
    "not-a-member": Problem(
        "Not allowed for this key",
        "The network is permissioned: only members submit runs, only validators hold records"
        " and finalise blocks, only verifiers retrain. The key that signed has no such role"
        " here.",
        "Check which key the command used (`--key`), or ask the network's members to add yours.",
    ),
    "not-allowed": Problem(
        "Not allowed",
        "The key or the account may not do this.",
        "The message says why.",
    ),
    "not-approved": Problem(
        "Too few approvals",
        "The membership changes only if more than two thirds of the present validators sign the"
        " change: whoever controls fewer must not be able to add friends or remove others.",
        "Collect the approvals that are missing; each validator signs the same bytes.",
    ),
    "not-as-registered": Problem(
        "Other than registered",
        "A registered run uses the data and the parent that its registration names. The submission"
        " names others.",
        "Submit the run that was registered, or register this one and train it from the new seed.",
    ),
    "not-decided": Problem(
        "No verdict yet",
        "A proof exists as soon as the block with the verdict is final.",
        "Wait for it with `milepost submit --wait`, or look with `milepost status`.",
    ),
    "not-enough-coverage": Problem(
        "Too few intervals retraced",
        "The verdict is VALID, but it covers less of the training than you asked for with"
        " `--require`.",
        "Accept less, or ask the submitter for a network whose rules retrace more.",
    ),
    "not-finite": Problem(
        "NaN or infinity",
        "A weight, an optimizer value, a loss or the data holds NaN or infinity. The training"
        " diverged, and arithmetic with such values cannot be compared.",
        "Lower the learning rate or clip gradients, and record again.",
    ),
    "not-found": Problem(
        "Not there",
        "This node has nothing under that name.",
        "Check the name; a node that is still catching up may have it later.",
    ),
    "not-on-panel": Problem(
        "Not on the panel",
        "An accused step is settled by the verifiers that served the run's device class when its"
        " verifiers were elected. Who joined or stated the class later, or could not repeat the"
        " arithmetic then, decides nothing about it.",
        "Nothing to do for this submission. A node states what it serves by itself; compare"
        " `milepost status`.",
    ),
    "not-recordable": Problem(
        "Run cannot be recorded",
        "The training script does something that a record cannot hold.",
        "The message names it and says what to do instead.",
    ),
    "not-registered-recipe": Problem(
        "Not the run that was registered",
        "A registration fixes the whole recipe but its seed, the learning rate of every step"
        " included, before there is a seed to choose anything by. The run went another way: other"
        " rates, fewer steps, or another model, optimizer or batch size.",
        "Record the run as it was registered, giving it its scheduler with schedule=. Or submit it"
        " without the registration: `milepost submit --unregistered`.",
    ),
    "not-reproducible": Problem(
        "Interval does not repeat",
        "The self-check retraced an interval on your own machine and got other bits."
        " Verifiers would find the same difference and reject the run.",
        "The message names the first step and the part that differs. `milepost check RUN --bisect`"
        " (with `--interval N` for another than the first) names the tensors too, and tries which"
        " cause gives what was recorded. The usual causes:"
        " another loss in the loop than loss= declares; clipping, accumulation, augmentation or"
        " autocast that the run does not declare (`clip_norm=`, `clip_value=`, `accumulate=`,"
        " `augment=`, `autocast=`), or that differs from what it declares; weights changed"
        " besides the optimizer. Declare them or take them out, and record again.",
    ),
    "not-retraced": Problem(
        "An interval does not retrace",
        "The network retrained the run and found a step that does not follow from the submitter's"
        " own state, recipe and data. The verdict is INVALID.",
        "Do not use the model as what it is said to be. The submitter may find the cause by"
        " recording the run again and comparing the interval named.",
    ),
    "not-served": Problem(
        "Nobody retrains this device class",
        "A run is retraced by verifiers that stated on chain that they serve its device class and"
        " that another operator than the submitter's runs. There is none, so the submission would"
        " only end undecided.",
        "Record with profile `exact` or `rounded`, which every machine repeats, or with what"
        " `milepost status` lists; or ask the network's operators to run a machine of this class.",
    ),
    "not-your-duty": Problem(
        "Interval dealt to others",
        "The election deals every interval to certain verifiers, and only these can attest"
        " it. A difference can be reported by any verifier, as a witness.",
        "Nothing to do on a node of this release. Otherwise compare your election with"
        " docs/spec/election.md.",
    ),
    "nothing-to-refute": Problem(
        "Nothing to refute",
        "A work refutation shows that a verifier's work digest is wrong. This verifier did not say"
        " that it retrained the interval, or its digest is right, or the run is of profile"
        " `tolerance`, under which every machine has gradients of its own.",
        "Nothing to do: somebody else refuted it first, or the interval was retraced as it should"
        " be.",
    ),
    "one-step-per-batch": Problem(
        "Not one step per batch",
        "A recorded step is one batch, one opt.step() and one run.log(loss), in a loop over"
        " run.batches(). The loop did something else.",
        "Call both exactly once for every batch. Gradient accumulation cannot be recorded.",
    ),
    "other-weights": Problem(
        "Other weights than those judged",
        "The model's tensors are not those of the verdict: changed afterwards, another training,"
        " or the wrong file. Saving the same tensors anew does not cause this.",
        "Get the file that was judged, or have this one submitted as a run of its own.",
    ),
    "part-lost": Problem(
        "Beginning not kept",
        "An upload went on behind the beginning of a file that a node keeps from an interrupted"
        " one. Such beginnings are kept for a while, in little room, and not over a restart.",
        "Send the whole file. The command does that by itself.",
    ),
    "peer-failed": Problem(
        "Another node did not answer",
        "A node asked another one and got no answer, or one that is not the protocol.",
        "Nothing to do if it passes: the ledger goes on while more than two thirds are there.",
    ),
    "pickle-refused": Problem(
        "File is a pickle",
        "A pickle can run code when it is opened, so it was not opened.",
        "Save the tensors with safetensors on a machine that you trust, and use that file.",
    ),
    "port-in-use": Problem(
        "Port taken",
        "Another process listens at the node's host and port.",
        "Stop that process, or give the node another port: `port` in node.toml, and the endpoint"
        " in the genesis if the network is new.",
    ),
    "record-unavailable": Problem(
        "No peer has the file",
        "A validator must hold every file of a record, and no peer gave it this one.",
        "Nothing to do at first: the node tries again. If it lasts, the node that took the"
        " submission is gone, and the record must be submitted again.",
    ),
    "refused": Problem(
        "Refused by the node",
        "A node looked at the request and said no, without naming a rule.",
        "The message is all it said. The node's log says more.",
    ),
    "registration-used": Problem(
        "Registration used already",
        "A registration gives one run its seed. Another submission uses this one and is VALID or"
        " not decided yet.",
        "Register again for another run.",
    ),
    "snapshot-broken": Problem(
        "File is damaged",
        "A file of tensors or steps must be exactly as long as its header says, without gaps,"
        " overlaps or trailing bytes. This one is not: it was cut short, written by another"
        " tool or tampered with.",
        "If the record on your disk is whole, send it again; otherwise record again.",
    ),
    "sparse-gradients": Problem(
        "Gradients are sparse",
        "A record holds dense gradients. An embedding with sparse=True gives others.",
        "Make the layer with sparse=False.",
    ),
    "store-corrupt": Problem(
        "Chain on disk is damaged",
        "The chain database does not hold what was written: a block no longer follows from those"
        " before it, or the file itself is broken. The node does not start from such a state.",
        "Follow the message: set the file aside and start again; the node fetches the chain from"
        " its peers, and signs once it has followed two heights.",
    ),
    "store-failed": Problem(
        "Disk failed",
        "The database or a file could not be read or written, as on a full disk. A node that"
        " cannot store what it signs must not go on.",
        "Make room or repair the disk, then start the node again; it continues where it was.",
    ),
    "store-full": Problem(
        "Node is full",
        "A node gives a limited space to the files of records.",
        "Use another node, or raise limits.store_bytes in node.toml.",
    ),
    "too-large": Problem(
        "Larger than the limit",
        "Everything that a stranger can send has a limit, so that nobody can fill another's memory"
        " or disk.",
        "The message names the limit. Split the work into smaller pieces.",
    ),
    "too-many-strikes": Problem(
        "Accuses nobody any more",
        "A verifier that was wrong about training too often cannot make all others recompute steps"
        " any more.",
        "Find out why the machine was wrong: the known-answer test runs when a node starts. The key"
        " stays barred; the other members may admit a new one.",
    ),
    "too-slow": Problem(
        "Request too slow",
        "A request that trickles in keeps a place that others wait for, so it has to come at some"
        " 100 kB per second.",
        "Send it again, over a better line if there is one. Files that arrived completely stay.",
    ),
    "training-failed": Problem(
        "Training ended with an error",
        "The training script of the demo ended with an error.",
        "The message shows the end of what it printed.",
    ),
    "undecided": Problem(
        "No verdict either way",
        "The network could not hold the record, or too few verifiers answered, or the panel did"
        " not settle an accusation. The verdict is UNDECIDED: neither VALID nor INVALID.",
        "The verdict's reason says which. Submit again under another name once the cause is gone.",
    ),
    "undecided-yet": Problem(
        "No verdict yet",
        "The time to wait is over and the network has not decided. The submission goes on without"
        " you.",
        "Run the same command again to go on waiting, or look with `milepost status`.",
    ),
    "undeclared-change": Problem(
        "Something undeclared changed",
        "Between two steps only what was declared may change: the optimizer's update, buffers"
        " that forward writes, the learning rate. Something else changed weights, settings or"
        " the batch.",
        "Take the change out of the loop or express it in the model, then record again.",
    ),
    "unknown-accusation": Problem(
        "No such accusation",
        "A panel answer must name a step that a witness accused.",
        "Wait for the witness to be in a block, then answer.",
    ),
    "unknown-operator": Problem(
        "Operator not on the list",
        "Verifiers compute only operators of a fixed list, each known to be deterministic and"
        " harmless. The model uses another one, or a listed one with an argument that recipes"
        " leave out.",
        "The message says what to write instead. The list is in milepost_ml/operators.py.",
    ),
    "unknown-registration": Problem(
        "Registration unknown",
        "The sender has no such registration on the chain.",
        "Register first, and submit with the key that registered.",
    ),
    "unknown-submission": Problem(
        "No such submission",
        "The transaction speaks of a submission that is not on this chain.",
        "Check the id and, if it is young, whether the node is still catching up (`milepost"
        " status`).",
    ),
    "unreachable": Problem(
        "No node answers",
        "None of the nodes asked gave a usable answer. The message lists what each said.",
        "Check that the network runs (`milepost status`), name other nodes with `--node`, and try"
        " again.",
    ),
    "unregistered-state": Problem(
        "State that a snapshot would miss",
        "A verifier starts from a snapshot of parameters, buffers and optimizer state. The"
        " model keeps more than that, so it would start without it.",
        "Register the state as a persistent buffer.",
    ),
    "unsupported-framework": Problem(
        "Framework cannot be recorded as it is set up",
        "Keras models are recorded and retrained on TensorFlow, on one thread, which can only be"
        " chosen before TensorFlow computes anything.",
        "The message says what is missing or too late. Install the extra `tensorflow`, let Keras"
        " run on TensorFlow, and make the run before the first layer of the script.",
    ),
    "unsupported-model": Problem(
        "Model cannot be recorded",
        "A record holds dense float32 parameters in the default layout, on the CPU or on the"
        " first GPU of the process, computed by PyTorch's own kernels, or by listed built-in"
        " layers and losses of Keras.",
        "The message names the tensor, wrapper, layer or setting, and what to use instead.",
    ),
    "unsupported-optimizer": Problem(
        "Optimizer cannot be recorded",
        "A recipe declares SGD, Adam or AdamW: of PyTorch with the settings and the learning rate"
        " of every parameter group, of Keras with one rate per step. Other kinds and options"
        " (maximize, capturable, differentiable) cannot be repeated by verifiers; foreach and"
        " fused are set by the profile.",
        "The message names the option. Leave it out, or use one of these optimizers.",
    ),
    "unsupported-precision": Problem(
        "Precision cannot be recorded",
        "Mixed precision is recorded as PyTorch's autocast in bfloat16 around model and"
        " loss, under profile `class`. Other profiles have no rules for bfloat16, and"
        " float16 needs a GradScaler, whose scale no snapshot holds.",
        "Declare `autocast='bfloat16'`, leave `profile=` out, and enter"
        " `torch.autocast('cpu', torch.bfloat16)` inside the loop, or train in float32.",
    ),
    "used-optimizer": Problem(
        "Optimizer is not fresh",
        "A run starts from an optimizer without state. This one has already taken steps.",
        "Make the optimizer anew right before the run; the weights may stay.",
    ),
    "worker-died": Problem(
        "A worker process ended",
        "An experiment computes its cells in processes of their own, and one of them was killed,"
        " mostly by the system for want of memory.",
        "Start the same command again: what is done is kept. With --jobs 1 it needs least memory.",
    ),
    "worker-failed": Problem(
        "Verifier process ended",
        "Records are read and retrained in a process of its own. It ended in the middle of a job,"
        " as it does when it needs more memory than it may use.",
        "The node starts a new one and tries again a few times. If it lasts, raise"
        " limits.worker_bytes in node.toml; node.log shows what the process printed.",
    ),
    "worker-timeout": Problem(
        "Verifier process took too long",
        "A job of the verifier process ran longer than the node allows, and the process was"
        " stopped.",
        "Raise limits.retrace_seconds in node.toml if the intervals are really that long.",
    ),
    "wrong-architecture": Problem(
        "Model file of another architecture",
        "model.safetensors in the run folder has other tensors than the last snapshot, as after"
        " merging an adapter or exporting to another layout.",
        "Submit the model as it was trained: put back the file that the recorder wrote.",
    ),
    "wrong-attempt": Problem(
        "Counted wrong",
        "A registration says how many its sender made before, so that asking again for a seed"
        " shows; so does a verifier's statement of what it serves, so that an old one cannot be"
        " said again. The chain counts another number.",
        "Register again; the client asks the chain for the number, as a node does for its"
        " statements. If you see it often, somebody else may use the key.",
    ),
    "wrong-initial-weights": Problem(
        "Other initial weights than declared",
        "Weights that are declared as derived follow from seed and tensor name, bit for bit. A"
        " registered run without a parent declares all of them so. Snapshot 0 holds others, or"
        " declares less: whatever was trained before, or chosen, does not show in the record.",
        "Record the run with `register=`, which sets the weights. To go on from an earlier model,"
        " have that one judged and name it with `parent=`.",
    ),
    "wrong-mode": Problem(
        "Model in another mode",
        "Dropout and batch normalisation compute differently in evaluation mode. A run is"
        " recorded in the mode the model had at its start, which is training.",
        "Call model.train() before recording, and again after every validation.",
    ),
    "wrong-network": Problem(
        "Of another network",
        "What one network signed means nothing in another. Either a proof's signatures are of"
        " validators that the trust file does not list (they may be real, but not from anyone you"
        " trust), or a node, its home folder and its peers do not have the same genesis.",
        "Use the trust file of the network that judged the model, or do not rely on the proof. For"
        " a node: the message, /health/ready and `milepost node doctor` say which network and"
        " genesis each side has. Give all nodes the genesis.json whose network id stands in the"
        " trust file, and move away the chain.db of a node that had another one.",
    ),
    "wrong-order": Problem(
        "Batch out of order",
        "The order of the data follows from the run's seed, so that verifiers know every batch."
        " Keras gave its training function another batch than the run has for the step.",
        "Pass `fit` the result of `run.dataset(...)` itself, with `shuffle=False`, and neither"
        " `class_weight` nor `steps_per_epoch`.",
    ),
    "wrong-protocol": Problem(
        "Of another release",
        "Nodes say with every request which protocol they speak. The caller speaks another one than"
        " this node, so that they would misunderstand each other.",
        "Run the same release of milepost on both: `milepost node status` says which one each"
        " node has.",
    ),
    "wrong-seed": Problem(
        "Another seed than the network's",
        "The seed of a registered run comes from the network after the registration, so that nobody"
        " can choose order, dropout or initial weights. The recipe names another seed.",
        "Record the run with `register=`, which takes the seed from the network; seeds of other"
        " networks or registrations do not count.",
    ),
    "wrong-tensors": Problem(
        "Not the expected tensors",
        "Names, types and shapes of a snapshot follow from the recipe. This file holds"
        " others, and was refused before its values were read.",
        "Submit the record as it was written. A changed architecture needs a new run.",
    ),
}
