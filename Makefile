# Makefile of cqrs, built with PGXS.
#
# "make help" lists the targets.  "make test" and "make demo" install the
# Debian packages that they lack; the other targets need PostgreSQL's server
# development files and librabbitmq.

EXTENSION = cqrs
MODULE_big = cqrs
PGFILEDESC = "cqrs - publishes the changes of tables to RabbitMQ"
# Where this file lies; elsewhere than the build with make -f DIR/Makefile.
here := $(dir $(lastword $(MAKEFILE_LIST)))
# The number of the release, for the objects of SQL and for the library.
EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" $(here)cqrs.control)
OBJS = $(patsubst $(here)%.c,%.o,$(wildcard $(here)src/*.c $(here)src/*/*.c))
DATA = $(patsubst $(here)%,%,$(wildcard $(here)sql/cqrs--*.sql))
PG_CPPFLAGS = -I$(srcdir)/src -DCQRS_VERSION=\"$(EXTVERSION)\"
SHLIB_LINK = -lrabbitmq -lssl -lcrypto -lpthread

# HIREDIS=0: without the transport to Redis, and without libhiredis.
ifeq ($(HIREDIS),0)
OBJS := $(filter-out src/broker/redis%,$(OBJS))
else
PG_CPPFLAGS += -DCQRS_WITH_REDIS
SHLIB_LINK += -lhiredis
endif

# Inputs of pg_regress are sql/NAME.sql, run in this order.
REGRESS = setup extension register alter pack capture merge paths triggers rewrite \
	touches savepoints tracked types messages sync golden settings hooks options \
	partitions flush commit order tools diff keys dump check ddl retype meaning grants \
	abuse former owners intrusion reentry replica_register replica_ddl apply apply_values apply_tables reconcile
ISOLATION = sync-order concurrent-update alter-waits rollback-hole prepared \
	serializable multixact write-conflicts ddl-waits \
	sync-before-save sync-moved detach-concurrently retry-parked meaning-locks replica-register \
	apply-waits deleted-sync-failed deleted-sync-waits reindex-concurrently former-open
ISOLATION_OPTS = --inputdir=$(srcdir)/test/isolation
# For test/run: they need more than a server, so installcheck leaves them out.
PROVE_TESTS = $(patsubst $(here)%,%,\
	$(wildcard $(here)test/t/*.pl $(here)test/hostile/*.pl))

TEST_TOOLS = test/tools/cqrs_consume test/bench/bare_publisher
REDIS_TOOLS = test/bench/bare_redis
TEST_MODULES = test/tools/late_change.so test/tools/transport.so
# Parts of the library, tested without a server.
UNIT_TESTS = $(addprefix test/unit/,cases order reader session pack prefetch)
# What reads bytes from outside, for libFuzzer.
FUZZ_TESTS = $(addprefix test/fuzz/,frames packs redis)
EXTRA_CLEAN = $(TEST_TOOLS) $(REDIS_TOOLS) $(TEST_MODULES) $(UNIT_TESTS) $(FUZZ_TESTS) test-output

# WERROR=1: what the tests build with.  PostgreSQL's own headers and macros need
# the exceptions.
ifeq ($(WERROR),1)
PG_CFLAGS += -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare
endif

# ASSERT=1: with the Asserts of cqrs, and those in PostgreSQL's headers.
ifeq ($(ASSERT),1)
PG_CPPFLAGS += -DUSE_ASSERT_CHECKING
endif

# SANITIZE=1: with AddressSanitizer and UndefinedBehaviorSanitizer.  The server,
# which is built without, has to preload their libraries: see test/lib.sh.
ifeq ($(SANITIZE),1)
SANITIZERS = -fsanitize=address,undefined
PG_CFLAGS += $(SANITIZERS)
SHLIB_LINK += $(SANITIZERS)
endif

PG_CONFIG ?= pg_config
PG_VERSION := $(shell $(PG_CONFIG) --version 2>/dev/null)
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
# On Debian, the file above comes with the client.
SERVER_HEADER := $(wildcard \
	$(shell $(PG_CONFIG) --includedir-server 2>/dev/null)/postgres.h)
ifneq ($(and $(PGXS),$(SERVER_HEADER)),)
include $(PGXS)
else
all install uninstall clean installcheck:
ifeq ($(PG_VERSION),)
	@echo "The command \"$(PG_CONFIG)\" does not work." >&2
	@echo "Name the pg_config of the server: make PG_CONFIG=/path/to/pg_config" >&2
	@echo "Debian has it in postgresql-server-dev-NN; install librabbitmq-dev, libhiredis-dev and libssl-dev, too." >&2
else
	@echo "The development files of the server, $(PG_VERSION), are missing." >&2
	@echo "On Debian: apt-get install postgresql-server-dev-$(firstword $(subst ., ,$(word 2,$(PG_VERSION))))" >&2
endif
	@false
endif

# Checks of libc's that would come before the sanitizer's, and say less.
ifeq ($(SANITIZE),1)
override CPPFLAGS += -U_FORTIFY_SOURCE
endif

$(OBJS): $(wildcard $(here)src/*/*.h)
src/cqrs.o: cqrs.control

# A build outside of the sources, by make -f DIR/Makefile.  PGXS sets VPATH, by
# which make finds objects, too, that a build in the sources has left there.
# What is built is searched for here only.
ifneq ($(here),./)
override srcdir := $(VPATH)
override VPATH :=
vpath %.c $(here)
vpath %.h $(here)
vpath %.control $(here)
$(shell mkdir -p $(sort $(dir $(OBJS) $(TEST_TOOLS) $(UNIT_TESTS) $(FUZZ_TESTS) $(REDIS_TOOLS))))
endif

test/unit/cases test/unit/order: test/unit/server.c src/publish/window.c \
	src/publish/hold.c
test/unit/reader: test/unit/server.c src/publish/reader.c src/publish/reader_held.c \
	src/publish/window.c src/publish/hold.c
test/unit/session: test/unit/server.c src/broker/session.c src/base/url.c
test/unit/pack: test/unit/server.c src/outbox/pack.c src/outbox/message.c
test/unit/prefetch: test/unit/server.c src/consume/prefetch.c

# Sections that no test reaches, and what they need of a server, are left out.
$(UNIT_TESTS): %: %.c
	$(CC) $(CFLAGS) -DUSE_ASSERT_CHECKING=1 $(CPPFLAGS) $(LDFLAGS) -o $@ \
		$(filter %.c,$^) -ffunction-sections -fdata-sections -Wl,--gc-sections \
		-Wl,--defsym=ExceptionalCondition=assertion_failed \
		-L$(shell $(PG_CONFIG) --pkglibdir) \
		-L$(shell $(PG_CONFIG) --libdir) -lpgcommon -lpgport -lm

$(UNIT_TESTS): test/unit/server.h $(wildcard $(here)src/*/*.h)

test-unit: $(UNIT_TESTS)
	@set -e; for test in $(UNIT_TESTS); do \
		$$test $(or $(UNIT_SECONDS),2) $(UNIT_SEED); done

test/fuzz/frames: test/unit/server.c src/broker/amqp_decode.c \
	src/broker/amqp_properties.c src/broker/failure.c
test/fuzz/packs: test/unit/server.c src/outbox/pack.c src/outbox/message.c
test/fuzz/redis: test/unit/server.c src/broker/redis_reply.c \
	src/broker/redis_envelope.c src/broker/redis_outcome.c \
	src/broker/redis_error.c src/broker/failure.c

$(FUZZ_TESTS): %: %.c test/fuzz/fuzz.h test/unit/server.h
	clang -g -O1 -Wno-ignored-attributes -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
		-ffunction-sections -Wl,--gc-sections -Wl,--unresolved-symbols=ignore-all \
		-DUSE_ASSERT_CHECKING=1 $(CPPFLAGS) -U_FORTIFY_SOURCE $(LDFLAGS) -o $@ \
		$(filter %.c,$^) -Wl,--defsym=ExceptionalCondition=assertion_failed \
		-L$(shell $(PG_CONFIG) --pkglibdir) -L$(shell $(PG_CONFIG) --libdir) \
		-lpgcommon -lpgport -lrabbitmq -lhiredis -lcrypto -lm

# A corpus is made anew; an input that fails is kept in test-output/.
fuzz:
	@PG_CONFIG='$(PG_CONFIG)' test/packages fuzz
	@$(MAKE) --no-print-directory -s $(FUZZ_TESTS)
	@mkdir -p test-output; corpus=$$(mktemp -d); trap 'rm -rf "$$corpus"' EXIT; \
	for test in $(FUZZ_TESTS); do \
		name=$${test##*/}; mkdir "$$corpus/$$name"; \
		$$test -max_total_time=$(or $(FUZZ_SECONDS),60) -max_len=4096 \
			-print_final_stats=1 -artifact_prefix=test-output/$$name- \
			"$$corpus/$$name" >test-output/$$name.log 2>&1 || \
			{ tail -n 60 test-output/$$name.log; exit 1; }; \
		sed -n "s/^stat::number_of_executed_units: */$$name: inputs tried: /p" \
			test-output/$$name.log; \
	done

$(TEST_TOOLS): %: %.c
	$(CC) $(CFLAGS) $(CPPFLAGS) $(LDFLAGS) -o $@ $< -lrabbitmq -lm

$(REDIS_TOOLS): %: %.c
	$(CC) $(CFLAGS) $(CPPFLAGS) $(LDFLAGS) -o $@ $< -lhiredis -lcrypto

$(TEST_MODULES): %.so: %.c
	$(CC) $(CFLAGS) $(CFLAGS_SL) $(CPPFLAGS) $(LDFLAGS) -shared -o $@ $^ $(LIBRARIES)

# A transport without the rest of the library.
test/tools/transport.so: $(filter-out src/broker/session.o src/broker/password.o,\
	$(filter src/broker/%.o,$(OBJS))) src/base/url.o
test/tools/transport.so: LIBRARIES = $(filter -l%,$(SHLIB_LINK))

# A list given on the command line runs that list alone; the others are run
# only when none is given.
LISTS = REGRESS ISOLATION PROVE_TESTS
GIVEN := $(foreach list,$(LISTS),\
	$(if $(findstring command,$(origin $(list))),$(list)))
CHOSEN = $(if $(strip $(GIVEN)),$(GIVEN),$(LISTS))
chosen = $(if $(filter $(1),$(CHOSEN)),$(strip $($(1))))

test:
	@PG_CONFIG='$(PG_CONFIG)' SANITIZE='$(SANITIZE)' ASSERT='$(ASSERT)' JOBS='$(JOBS)' \
		exec test/run $(if $(strip $(GIVEN)),,--whole) $(if $(UNIT),--unit) \
		--regress='$(call chosen,REGRESS)' \
		--isolation='$(call chosen,ISOLATION)' --tap='$(call chosen,PROVE_TESTS)'

test-regress:
	@$(MAKE) --no-print-directory test REGRESS='$(REGRESS)'

test-isolation:
	@$(MAKE) --no-print-directory test ISOLATION='$(ISOLATION)'

test-tap:
	@$(MAKE) --no-print-directory test PROVE_TESTS='$(PROVE_TESTS)'

# What is run on other releases of Debian: see test/matrix.
PORTABLE = $(patsubst %,test/t/%.pl,001_publish 002_settings 029_releases 041_privileges \
	042_late_changes 044_workers 050_transport 051_consume 056_quorum_order \
	057_golden 060_redis 065_redis_consume 070_build 071_timescaledb) \
	test/hostile/redis.pl test/hostile/redis_consume.pl

test-portable:
	@$(MAKE) --no-print-directory test UNIT=1 REGRESS='$(REGRESS)' \
		ISOLATION='$(ISOLATION)' PROVE_TESTS='$(PORTABLE)'

matrix:
	@exec test/matrix $(SUITES)

sanitize:
	@$(MAKE) --no-print-directory test SANITIZE=1 REGRESS='$(REGRESS)' \
		ISOLATION='$(ISOLATION)' PROVE_TESTS='$(wildcard test/hostile/*.pl)'

bench:
	@PG_CONFIG='$(PG_CONFIG)' QUICK='$(QUICK)' exec test/bench/run

soak:
	@$(MAKE) --no-print-directory test JOBS=1 PROVE_TESTS='$(wildcard test/soak/*.pl)'

demo:
	@PG_CONFIG='$(PG_CONFIG)' exec test/demo/run

# INTEROP=require: fail where PyPI cannot be reached, instead of skipping.
interop:
	@PG_CONFIG='$(PG_CONFIG)' INTEROP='$(INTEROP)' exec test/interop/run

# The programs of docs/consumers.md; LANGUAGES="python node go java" chooses.
consumers:
	@PG_CONFIG='$(PG_CONFIG)' exec test/consumers/run $(LANGUAGES)

# The documents as a site, by MkDocs Material from PyPI.
docs:
	@exec test/tools/site/run

# The distribution for PGXN, of the last commit.
dist:
	@mkdir -p dist
	@git archive --format=zip --prefix=cqrs-$(EXTVERSION)/ \
		-o dist/cqrs-$(EXTVERSION).zip HEAD
	@echo dist/cqrs-$(EXTVERSION).zip

# Debian packages of the last commit, for the PostgreSQL versions that the
# release of Debian has.  The build runs installcheck.  A package that is not
# uploaded to Debian closes none of its bugs.
deb:
	@test/packages deb
	@rm -rf dist/deb && mkdir -p dist/deb/cqrs-$(EXTVERSION)
	@git archive HEAD | tar -x -C dist/deb/cqrs-$(EXTVERSION)
	@git archive --format=tar.gz --prefix=cqrs-$(EXTVERSION)/ \
		-o dist/deb/cqrs_$(EXTVERSION).orig.tar.gz HEAD -- . ':!debian'
	@cd dist/deb/cqrs-$(EXTVERSION) && { \
		PG_UPDATECONTROL=yes dpkg-buildpackage -us -uc >../build.log 2>&1 || \
		{ tail -n 60 ../build.log; exit 1; }; }
	@lintian --allow-root --fail-on=error,warning \
		--suppress-tags=initial-upload-closes-no-bugs dist/deb/*.changes
	@ls dist/deb/*.deb

format:
	@PG_CONFIG='$(PG_CONFIG)' exec test/tools/format

help:
	@echo 'make                build the extension'
	@echo 'make install        install it into the PostgreSQL that PG_CONFIG names'
	@echo 'make clean          remove what was built'
	@echo 'make test           all tests, on private servers; installs missing packages'
	@echo 'make test-regress   pg_regress only; also test-isolation, test-tap'
	@echo 'make test REGRESS="NAME ..."  these tests only; also ISOLATION="NAME ...",'
	@echo '                    PROVE_TESTS="test/t/NAME.pl ..."; JOBS=N: so many TAP files'
	@echo '                    beside each other, if not two'
	@echo 'make test-unit      parts of the library without a server; UNIT_SECONDS=N for'
	@echo '                    longer, UNIT_SEED=N repeats a schedule'
	@echo 'make fuzz           what brokers send, and packs, by libFuzzer; FUZZ_SECONDS=N each'
	@echo 'make test PROVE_TESTS=test/hostile/broker_fuzz.pl  what a broker sends, mutated at'
	@echo '                    random (CQRS_SEED repeats a run; CQRS_FUZZ_SECONDS, 60)'
	@echo 'make test SANITIZE=1  under AddressSanitizer and UBSan, which gcc brings along;'
	@echo '                    ASSERT=1: with assertions, alone or besides these'
	@echo 'make matrix         pg_regress, isolation and some TAP files on other releases'
	@echo '                    of Debian, in chroots, as root; SUITES="trixie ..."'
	@echo 'make sanitize       that of pg_regress, isolation and test/hostile'
	@echo 'make soak           long tests under random faults (CQRS_SEED repeats one), and'
	@echo '                    the publisher under valgrind, where that is installed'
	@echo 'make demo           a guided tour with a replica; BROKER=redis: over Redis'
	@echo 'make interop        replicas and a master of the real django-cqrs, from PyPI'
	@echo 'make consumers      the programs of docs/consumers.md; LANGUAGES="go java" chooses'
	@echo 'make bench          cqrs against its peers and limits; writes docs/bench/'
	@echo 'make bench QUICK=1  the same in a minute; fails if a ratio is far from its goal'
	@echo 'make docs           the documents as a site, below dist/site/; checks links and anchors'
	@echo 'make dist           the distribution for PGXN, a zip below dist/'
	@echo 'make deb            packages for this release of Debian, below dist/deb/'
	@echo 'make format         indent the C and Perl sources'
	@echo 'make HIREDIS=0      build without Redis, and so without libhiredis'
	@echo 'make WERROR=1       build with more warnings, each of them an error'

.PHONY: bench sanitize soak fuzz matrix test test-unit test-regress test-isolation \
	test-tap test-portable demo interop consumers docs dist deb format help
