# What test/run, test/demo/run and others share; to be sourced by bash.
#
# Everything happens in one new directory, $work: a copy of the sources, what
# is built from them, and a private installation of PostgreSQL that is made of
# links to the one on the system, plus the extension.  Servers run as user
# postgres when the caller is root, because initdb refuses root.  When the
# caller exits, for whatever reason, every process that was started for the
# run is ended and $work is removed.

# An older release of django-cqrs that is still to be got along with, of 2023.
old_django_cqrs=2.5.0

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pg_config=${PG_CONFIG:-pg_config}

if [ "$(id -u)" = 0 ]; then
	run_user=postgres
else
	run_user=$(id -un)
fi

# Runs a command as the user that the servers belong to.
as_run_user()
{
	if [ "$run_user" = "$(id -un)" ]; then
		"$@"
	else
		runuser -u "$run_user" -- "$@"
	fi
}

# The postmasters of this run, by the pid files in $work.
run_postmasters()
{
	local pid file

	find "$work" -name postmaster.pid 2>/dev/null | while read -r file; do
		pid=$(head -n 1 "$file" 2>/dev/null) || continue
		[ "$(readlink "/proc/$pid/cwd")" != "$(dirname "$file")" ] || echo "$pid"
	done
}

# The other processes of this run, by the mark in their environment.
run_marked()
{
	local dir pid

	for dir in /proc/[0-9]*; do
		pid=${dir#/proc/}
		[ "$pid" != "$$" ] && [ "$pid" != "$BASHPID" ] || continue
		! grep -qsxzF "CQRS_TEST_WORK=$work" "$dir/environ" || echo "$pid"
	done
}

end_run()
{
	local status=$? pid

	set +e
	trap '' INT TERM HUP
	# What this function itself starts must not bear the mark.
	export -n CQRS_TEST_WORK
	for pid in $(run_postmasters); do
		kill -QUIT "$pid" && timeout 10 tail --pid="$pid" -f /dev/null
	done 2>/dev/null
	for pid in $(run_marked); do
		kill -KILL "$pid" && timeout 10 tail --pid="$pid" -f /dev/null
	done 2>/dev/null
	cd /
	rm -rf "$work"
	exit $status
}

# Runs a command so that a signal to this shell is handled at once and not
# only when the command has ended.
interruptibly()
{
	"$@" &
	wait $!
}

start_run()
{
	# The private installation's, which comes first in PATH later, knows no
	# directory of header files.
	pg_config=$(command -v "$pg_config")
	umask 022
	work=$(mktemp -d /tmp/cqrs-test.XXXXXX)
	trap end_run EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	chmod 755 "$work"
	export CQRS_TEST_WORK=$work
	export TMPDIR=$work HOME=$work PAGER=cat
	# Not the caller's: with a locale of C, databases would be SQL_ASCII.  Not
	# LC_ALL: PostgreSQL's test programs unset it.
	unset LANG LANGUAGE ${!LC_@}
	export LANG=C.UTF-8
	unset MAKEFLAGS MAKELEVEL MFLAGS
	unset PSQL_PAGER ${!PG@}
}

# Puts a script before the server that preloads the libraries of the sanitizers:
# only the extension is built with them, and only the server is to run with them.
# Reports go to files in $reports; the first one ends the process.
#
# What they see is malloc's memory, the stack and static data.  Memory contexts
# get large blocks of malloc, and the server does not say what of a block is in
# use; to mark the ends of what the extension allocates would raise alarms where
# PostgreSQL uses the block again.  test/soak/valgrind.pl has that limit, too.
# Leaks are valgrind's: memory contexts that are still there when a process ends
# are none.
preload_sanitizers()
{
	local bindir=$1 cc options
	cc=$("$pg_config" --cc)
	reports=$work/sanitizers
	mkdir "$reports"
	chmod 777 "$reports"
	options=halt_on_error=1:abort_on_error=1:disable_coredump=0:log_path=$reports

	# AddressSanitizer begins with the first malloc otherwise: in the constructor
	# of a library, in a function of gettext's that it then calls itself, which
	# leaves gettext's lock locked for ever.
	echo 'extern void __asan_init(void);
		__attribute__((constructor)) static void first(void) { __asan_init(); }' |
		$cc -shared -fPIC -Wl,-z,initfirst -x c - -o "$bindir/sanitizer_first.so"

	mv "$bindir/postgres" "$bindir/postgres.bin"
	cat >"$bindir/postgres" <<-END
		#!/bin/bash
		export LD_PRELOAD='$($cc -print-file-name=libasan.so) $($cc -print-file-name=libubsan.so) $bindir/sanitizer_first.so'
		export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:quarantine_size_mb=16:$options/asan
		export UBSAN_OPTIONS=print_stacktrace=1:$options/ubsan
		exec -a "\$0" '$bindir/postgres.bin' "\$@"
	END
	chmod 755 "$bindir/postgres"
	export CQRS_SLOW=${CQRS_SLOW:-4}
}

# Builds a copy of the checkout with all warnings as errors and installs it
# into the private installation; its programs are first in PATH afterwards.
build_and_install()
{
	local bindir pkglibdir sharedir make
	bindir=$("$pg_config" --bindir)
	pkglibdir=$("$pg_config" --pkglibdir)
	sharedir=$("$pg_config" --sharedir)

	src=$work/src
	install=$work/install
	mkdir "$src" "$install"
	tar -C "$top" --exclude=./.git --exclude=./test-output --exclude=./dist --exclude='*.o' \
		--exclude='*.bc' --exclude='*.so' --exclude=./test/tools/cqrs_consume \
		--exclude=./test/bench/bare_publisher --exclude=./test/bench/bare_redis \
		-cf - . | tar -C "$src" --no-same-owner -xf -

	make="make -s -C $src PG_CONFIG=$pg_config with_llvm=no WERROR=1"
	make="$make ${COVERAGE:+COPT=--coverage}"
	make="$make ${SANITIZE:+SANITIZE=1} ${ASSERT:+ASSERT=1}"
	$make -j"$(nproc)" all \
		test/tools/cqrs_consume test/tools/late_change.so \
		test/tools/transport.so test/bench/bare_publisher test/bench/bare_redis

	# Programs find the rest of their installation from where they lie, through
	# links: so they are copied, and all else is linked.
	mkdir -p "$install$(dirname "$bindir")" "$install$pkglibdir" \
		"$install$(dirname "$sharedir")"
	cp -rL "$bindir" "$install$bindir"
	cp -rsT "$pkglibdir" "$install$pkglibdir"
	cp -rsT "$sharedir" "$install$sharedir"
	rm -f "$install$pkglibdir"/cqrs* "$install$sharedir"/extension/cqrs*
	$make install DESTDIR="$install" >/dev/null
	[ -z "${SANITIZE:-}" ] || preload_sanitizers "$install$bindir"

	if [ "$run_user" != "$(id -un)" ]; then
		# The extension: tests add a version, and replace the library.
		chown -R "$run_user": "$src" "$install$sharedir/extension"
		chown "$run_user": "$install$pkglibdir"
		chown "$run_user": "$work"
	fi
	pg_bindir=$install$bindir
	pgxs_dir=$(dirname "$("$pg_config" --pgxs)")/../..
	export PATH="$pg_bindir:$PATH"
	# The system's: the one in PATH names the directories of this installation.
	export CQRS_PG_CONFIG=$pg_config
	export CQRS_CONSUME=$src/test/tools/cqrs_consume
	export CQRS_LATE_CHANGE=$src/test/tools/late_change.so
	export CQRS_TRANSPORT=$src/test/tools/transport.so
	export CQRS_BARE_PUBLISHER=$src/test/bench/bare_publisher
	export CQRS_BARE_REDIS=$src/test/bench/bare_redis
	cd "$work"
}

# Runs a TAP file with PostgreSQL's framework, in a directory of its own.
run_prove()
{
	local dir=$1 file=$2

	interruptibly as_run_user env -C "$dir" TESTDIR="$dir" \
		TESTDATADIR="$dir/tmp_check" TESTLOGDIR="$dir/tmp_check/log" \
		PG_TEST_PORT_DIR="$work/portlock" \
		PG_REGRESS="$pgxs_dir/src/test/regress/pg_regress" \
		prove -v -I "$pgxs_dir/src/test/perl" -I "$src/test/perl" "$file" 2>&1
}

# Installs a release of django-cqrs ("==2.5.0", or nothing for the newest) and
# what it needs into a virtual environment; its pins decide.  A third argument
# is what runs the commands: as_run_user.
install_django_cqrs()
{
	local release=$1 dir=$2 with=${3:-}
	$with python3 -m venv "$dir" && $with "$dir/bin/pip" install --quiet --no-cache-dir \
		--disable-pip-version-check "django-cqrs$release" psycopg2-binary 'kombu[redis]'
}
