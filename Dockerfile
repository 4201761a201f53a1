# The example worker, its web page, its receiver and its traffic: one image, four commands, one user.
FROM python:3.13-slim-trixie

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

# A spool belongs to one uid and is refused to others. A named volume mounted on /spool takes owner and mode from here.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin relay \
    && install -d -o relay -g relay -m 0700 /spool

WORKDIR /app
COPY pyproject.toml README.md LICENSE continuum_worker.py ./
COPY framework framework
RUN pip install '.[example,postgres,web]' && rm -rf framework continuum_worker.py build ./*.egg-info
# `worker` and `python -m` look in the working directory first; services are not part of the wheel.
COPY services services
RUN chmod -R a+rX services

USER relay
CMD ["worker", "run", "services.example_worker"]
