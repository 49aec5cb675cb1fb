# PostgreSQL with cqrs, from the official image; target "consumer" is a program
# that prints the messages of a queue.  compose.yaml uses both.
#
# This file has never been built: no registry of images could be reached where cqrs is
# developed and tested.  It was checked by reading only.

ARG PG_MAJOR=17

FROM postgres:${PG_MAJOR}-bookworm AS build
ARG PG_MAJOR
RUN apt-get update && apt-get install -y --no-install-recommends \
		gcc libc6-dev libhiredis-dev librabbitmq-dev libssl-dev make \
		"postgresql-server-dev-${PG_MAJOR}" \
	&& rm -rf /var/lib/apt/lists/*
COPY . /src
WORKDIR /src
RUN make -j2 with_llvm=no all test/tools/cqrs_consume \
	&& make with_llvm=no install DESTDIR=/install

FROM postgres:${PG_MAJOR}-bookworm AS consumer
RUN apt-get update && apt-get install -y --no-install-recommends librabbitmq4 \
	&& rm -rf /var/lib/apt/lists/*
COPY --from=build /src/test/tools/cqrs_consume /usr/local/bin/
USER 65534:65534
ENTRYPOINT ["cqrs_consume"]

# The last stage is what "docker build ." makes.
FROM postgres:${PG_MAJOR}-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends \
		libhiredis0.14 librabbitmq4 \
	&& rm -rf /var/lib/apt/lists/* \
	&& echo 'CREATE EXTENSION cqrs;' >/docker-entrypoint-initdb.d/cqrs.sql
COPY --from=build /install /
CMD ["postgres", "-c", "shared_preload_libraries=cqrs"]
