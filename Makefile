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
OBJS = $(patsubst $(here)%.c,%.o,$(wildcard $(here)src/*.c $(here)src/*/*.c))
DATA = $(patsubst $(here)%,%,$(wildcard $(here)sql/cqrs--*.sql))
PG_CPPFLAGS = -I$(srcdir)/src
SHLIB_LINK = -lrabbitmq -lssl -lcrypto -lpthread

# Inputs of pg_regress are sql/NAME.sql, run in this order.
REGRESS = setup extension register alter pack capture since_15 paths triggers rewrite \
	touches savepoints tracked types messages sync golden settings hooks options \
	partitions flush tools diff keys dump check ddl grants abuse intrusion
ISOLATION = sync-order concurrent-update alter-waits rollback-hole prepared \
	serializable multixact write-conflicts ddl-waits \
	sync-before-save sync-moved detach-concurrently retry-parked
ISOLATION_OPTS = --inputdir=test/isolation
TAP_TESTS = 1
PROVE_TESTS = $(wildcard test/t/*.pl)
PROVE_FLAGS = -I test/perl

TEST_TOOLS = test/tools/cqrs_consume test/bench/bare_publisher
EXTRA_CLEAN = $(TEST_TOOLS) test-output

# WERROR=1: what the tests build with.  PostgreSQL's own headers and macros need
# the exceptions.
ifeq ($(WERROR),1)
PG_CFLAGS += -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare
endif

PG_CONFIG ?= pg_config
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
ifneq ($(PGXS),)
include $(PGXS)
else
all install uninstall clean installcheck:
	@echo "PostgreSQL's server development files are missing." >&2
	@echo "On Debian: apt-get install postgresql-server-dev-15 librabbitmq-dev libssl-dev" >&2
	@false
endif

$(OBJS): $(wildcard $(here)src/*/*.h)

# Folders of sources are no folders for objects where the two lie apart; make
# would find the former by VPATH.
ifneq ($(here),./)
$(shell mkdir -p $(sort $(dir $(OBJS) $(TEST_TOOLS))))
endif

$(TEST_TOOLS): %: %.c
	$(CC) $(CFLAGS) $(CPPFLAGS) $(LDFLAGS) -o $@ $< -lrabbitmq -lm

# A list given on the command line runs that list alone; the others are run
# only when none is given.
LISTS = REGRESS ISOLATION PROVE_TESTS
GIVEN := $(foreach list,$(LISTS),\
	$(if $(findstring command,$(origin $(list))),$(list)))
CHOSEN = $(if $(strip $(GIVEN)),$(GIVEN),$(LISTS))
chosen = $(if $(filter $(1),$(CHOSEN)),$(strip $($(1))))

test:
	@PG_CONFIG='$(PG_CONFIG)' exec test/run $(if $(strip $(GIVEN)),,--whole) \
		--regress='$(call chosen,REGRESS)' \
		--isolation='$(call chosen,ISOLATION)' --tap='$(call chosen,PROVE_TESTS)'

test-regress:
	@$(MAKE) --no-print-directory test REGRESS='$(REGRESS)'

test-isolation:
	@$(MAKE) --no-print-directory test ISOLATION='$(ISOLATION)'

test-tap:
	@$(MAKE) --no-print-directory test PROVE_TESTS='$(PROVE_TESTS)'

bench:
	@PG_CONFIG='$(PG_CONFIG)' QUICK='$(QUICK)' exec test/bench/run

soak:
	@$(MAKE) --no-print-directory test PROVE_TESTS='$(wildcard test/soak/*.pl)'

demo:
	@PG_CONFIG='$(PG_CONFIG)' exec test/demo/run

# INTEROP=require: fail where PyPI cannot be reached, instead of skipping.
interop:
	@PG_CONFIG='$(PG_CONFIG)' INTEROP='$(INTEROP)' exec test/interop/run

format:
	@PG_CONFIG='$(PG_CONFIG)' exec test/tools/format

help:
	@echo 'make                build the extension'
	@echo 'make install        install it into the PostgreSQL that PG_CONFIG names'
	@echo 'make clean          remove what was built'
	@echo 'make test           all tests, on private servers; installs missing packages'
	@echo 'make test-regress   pg_regress only; also test-isolation, test-tap'
	@echo 'make test REGRESS="NAME ..."  these tests only; also ISOLATION="NAME ...",'
	@echo '                    PROVE_TESTS="test/t/NAME.pl ..."'
	@echo 'make soak           long tests under random faults (CQRS_SEED repeats one), and'
	@echo '                    the publisher under valgrind, where that is installed'
	@echo 'make demo           a guided tour with a replica; installs missing packages'
	@echo 'make interop        replicas and a master of the real django-cqrs, from PyPI'
	@echo 'make bench          cqrs against its peers and limits; writes docs/bench/'
	@echo 'make bench QUICK=1  the same in a minute; fails if a ratio is far from its goal'
	@echo 'make format         indent the C and Perl sources'
	@echo 'make WERROR=1       build with more warnings, each of them an error'

.PHONY: bench soak test test-regress test-isolation test-tap demo interop format \
	help
