/*-------------------------------------------------------------------------
 *
 * lookup.c
 *	  Lookup of a host's addresses, without blocking on name servers.
 *
 * getaddrinfo() waits for name servers as long as the resolver's settings say,
 * half a minute by default, and cannot be interrupted.  So a thread calls it.
 * The thread runs nothing of PostgreSQL's, takes no signals, and shares only a
 * Lookup with this process, in malloc'd memory.  If nobody waits for the
 * thread any longer, it ends by itself, or with the process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "storage/procsignal.h"

#include "base/compat.h"
#include "base/timing.h"
#include "broker/lookup.h"

typedef struct Lookup
{
	pg_atomic_flag left;		/* set by the first of the two that leaves */
	int			pipe[2];		/* closed by the thread at its end */
	char		port[16];
	int			status;			/* of getaddrinfo() */
	struct addrinfo *addresses;
	char		host[FLEXIBLE_ARRAY_MEMBER];
} Lookup;

static Lookup *start_thread(const char *host, const char *port);
static void *run_thread(void *arg);
static bool wait_for_thread(Lookup *lookup, int timeout_ms);
static void leave(Lookup *lookup);

struct addrinfo *
cqrs_lookup(const char *host, int port, int timeout_ms, const char **reason)
{
	struct addrinfo hints = {0};
	struct addrinfo *addresses = NULL;
	char		service[16];
	Lookup	   *lookup;

	/* An address needs no name server. */
	hints.ai_family = AF_UNSPEC;
	hints.ai_socktype = SOCK_STREAM;
	hints.ai_flags = AI_NUMERICHOST;
	snprintf(service, sizeof(service), "%d", port);
	if (getaddrinfo(host, service, &hints, &addresses) == 0)
		return addresses;

	lookup = start_thread(host, service);
	if (lookup == NULL)
	{
		*reason = "out of memory, files or threads";
		return NULL;
	}
	if (!wait_for_thread(lookup, timeout_ms))
		*reason = "no answer within \"cqrs.connect_timeout\"";
	else if (lookup->status != 0)
		*reason = gai_strerror(lookup->status);
	else
	{
		addresses = lookup->addresses;
		lookup->addresses = NULL;
	}
	close(lookup->pipe[0]);
	leave(lookup);
	return addresses;
}

/*
 * Start a thread, which looks a host up.  The result is the thread's as well,
 * see leave().  Returns NULL if there is no room for another thread.
 */
static Lookup *
start_thread(const char *host, const char *port)
{
	Lookup	   *lookup = calloc(1, offsetof(Lookup, host) + strlen(host) + 1);
	pthread_attr_t attributes;
	pthread_t	thread;
	sigset_t	all;
	sigset_t	before;
	bool		started;

	if (lookup == NULL)
		return NULL;
	if (pipe2(lookup->pipe, O_CLOEXEC | O_NONBLOCK) != 0)
	{
		free(lookup);
		return NULL;
	}
	pg_atomic_init_flag(&lookup->left);
	strcpy(lookup->host, host);
	strlcpy(lookup->port, port, sizeof(lookup->port));

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	started = pthread_create(&thread, &attributes, run_thread, lookup) == 0;
	pthread_attr_destroy(&attributes);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (started)
		return lookup;

	close(lookup->pipe[0]);
	close(lookup->pipe[1]);
	free(lookup);
	return NULL;
}

/* The thread.  It calls nothing of PostgreSQL. */
static void *
run_thread(void *arg)
{
	Lookup	   *lookup = arg;
	struct addrinfo hints = {0};

	hints.ai_family = AF_UNSPEC;
	hints.ai_socktype = SOCK_STREAM;
	lookup->status = getaddrinfo(lookup->host, lookup->port, &hints,
								 &lookup->addresses);
	if (lookup->status != 0)
		lookup->addresses = NULL;
	close(lookup->pipe[1]);
	leave(lookup);
	return NULL;
}

/* Returns false if the thread is not done in time. */
static bool
wait_for_thread(Lookup *lookup, int timeout_ms)
{
	TimestampTz start = GetCurrentTimestamp();

	while (!ShutdownRequestPending)
	{
		long		rest_ms = cqrs_until_after_ms(start, timeout_ms);
		int			events;

		events = WaitLatchOrSocket(MyLatch,
								   WL_LATCH_SET | WL_TIMEOUT |
								   WL_SOCKET_READABLE | WL_EXIT_ON_PM_DEATH,
								   lookup->pipe[0], rest_ms,
								   cqrs_wait_event(CQRS_WAIT_LOOKUP));
		if (events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			/* DROP DATABASE elsewhere waits for all processes. */
			if (ProcSignalBarrierPending)
				ProcessProcSignalBarrier();
		}
		if (events & WL_SOCKET_READABLE)
			return true;
		if (rest_ms == 0)
			return false;
	}
	return false;
}

/* The last one that leaves frees the memory. */
static void
leave(Lookup *lookup)
{
	if (pg_atomic_test_set_flag(&lookup->left))
		return;
	if (lookup->addresses != NULL)
		freeaddrinfo(lookup->addresses);
	free(lookup);
}
