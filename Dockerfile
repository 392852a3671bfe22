# One image, every role: `docker run noetl-worker server|system|worker|materializer`.
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY noetl_worker noetl_worker
COPY tools tools
COPY state_builder state_builder
COPY materializer materializer
# EXTRAS=s3,gcs adds client libraries of optional tools; see pyproject.toml.
ARG EXTRAS=""
RUN python -m venv /opt/noetl \
    && /opt/noetl/bin/pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.12-slim
LABEL org.opencontainers.image.title="noetl-worker" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin noetl \
    && install -d -o noetl /var/lib/noetl
COPY --from=build /opt/noetl /opt/noetl
ENV PATH=/opt/noetl/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NOETL_DATA_DIR=/var/lib/noetl/data
# Files of tools live here; give it a volume (see the chart).
WORKDIR /var/lib/noetl
USER 10001
# 8082: the server's API. 9090: probes and metrics of the other roles.
EXPOSE 8082 9090
# A role handles SIGTERM itself: it drains, then exits 0.
ENTRYPOINT ["noetl"]
CMD ["--help"]
