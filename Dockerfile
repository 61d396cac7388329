# The image of a node and of a submitter: the extra `node` in the versions of the lock file, as a
# user without rights.  Runs with a read-only root filesystem and /tmp in memory.

FROM python:3.11-slim AS dependencies
# A package index with the build of torch that is wanted, where the usual one has another: that of
# PyTorch for CPUs makes the image several gigabytes smaller than one with CUDA.
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv --without-pip /opt/milepost
COPY requirements.lock ./
RUN pip --python /opt/milepost install --constraint requirements.lock \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$(grep '^torch==' requirements.lock)" \
    # Its tests, headers and test programs.
    && cd /opt/milepost/lib/python3.11/site-packages/torch \
    && rm -rf test include \
    && find bin -type f ! -name torch_shm_manager -delete
# What milepost[node] asks for, without milepost: a layer that stays when the sources change.
COPY pyproject.toml ./
RUN touch README.md LICENSE \
    && pip --python /opt/milepost install --constraint requirements.lock ".[node]" \
    && pip --python /opt/milepost uninstall --yes milepost

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --home-dir /tmp milepost \
    && install --directory --owner=milepost --group=milepost --mode=700 /net /node /work
COPY --from=dependencies /opt/milepost /opt/milepost
COPY deploy/entrypoint.sh /usr/local/bin/
RUN --mount=type=bind,target=/src \
    pip --python /opt/milepost install --no-cache-dir --no-deps --root-user-action=ignore /src \
    # Numba looks at a source's time to the nanosecond, of which a layer keeps the seconds.
    && cd /opt/milepost/lib/python3.11/site-packages/milepost_ml/arithmetic/cpu \
    && for file in *.py; do touch --date="@$(stat --format=%Y "$file")" "$file"; done \
    && NUMBA_CACHE_DIR=/opt/milepost/kernels OMP_NUM_THREADS=1 /opt/milepost/bin/python -c \
        "from milepost_ml.arithmetic.known_answer import get_device_classes; get_device_classes()"
ENV PATH=/opt/milepost/bin:$PATH NUMBA_CACHE_DIR=/tmp/kernels PYTHONDONTWRITEBYTECODE=1
USER milepost
WORKDIR /work
EXPOSE 8421
HEALTHCHECK --interval=30s --timeout=20s --start-period=120s --start-interval=5s \
    CMD ["milepost", "node", "health", "/node"]
ENTRYPOINT ["entrypoint.sh"]
CMD ["milepost", "node", "start", "/node"]
