/*-------------------------------------------------------------------------
 *
 * session.c
 *	  The session under random failures, settings and times, without a server:
 *	  which host is tried, and when.
 *
 * usage: session SECONDS [SEED]
 *
 * A scripted transport takes, fails or refuses each attempt, and connections
 * end.  At any time
 *
 *	  - there is one connection at most, and it is that of the settings, or
 *		reload() has said that it is not (I13, as far as one process goes)
 *	  - failures of the transport go through all hosts of the URL, and nothing
 *		else moves on
 *	  - the delay doubles with each round of hosts, within its limits, and for
 *		a lease within limits of its own; recover, reload and hurry end it
 *	  - memory that is freed does not have the password (I20)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/guc.h"
#include "broker/failure.h"
#include "broker/password.h"
#include "broker/session.h"
#include "broker/socket.h"
#include "server.h"

#define STEPS		200
#define HOSTS		3
#define PASSWORD	"s3cretword"
#define LEASE_MS	2000

struct CqrsConnection
{
	int			number;
};

/* Settings */
char	   *cqrs_exchange;
char	   *cqrs_ssl_ca_file = "";
char	   *cqrs_ssl_cert_file = "";
char	   *cqrs_ssl_key_file = "";
bool		cqrs_ssl_verify = true;
int			cqrs_heartbeat_s = 10;
int			cqrs_connect_timeout_ms = 1000;
int			cqrs_queue_limit;
int			cqrs_confirm_replicas;
int			cqrs_reconnect_delay_ms;
int			cqrs_reconnect_delay_max_ms;

static const char *const urls[] = {
	NULL,
	"amqp://u:" PASSWORD "@h0/v",
	"amqp://u:" PASSWORD "@h0:5672,h1:5673/v",
	"amqp://u:" PASSWORD "@h0,h1,h2/v",
	"amqp://u@h0,h1,h2/other"
};
static const int nhosts[] = {1, 1, 2, 3, 3};

static int	setting;			/* which URL */
static CqrsSession *session;
static CqrsConnection connection;

/* What the session is to do, told in another way. */
static bool is_open;			/* as the transport knows it */
static int	opened_setting;
static int	opened_exchange;
static int	host;				/* the next one to be tried */
static int	failures;
static int	leased;
static TimestampTz earliest;	/* bounds of the time of the next attempt */
static TimestampTz latest;
static bool accepts;			/* what connect() is to do */
static int	tried;				/* which host it was called for */

static CqrsConnection *
connect_scripted(const CqrsConnectOptions *options, CqrsFailure *failure)
{
	CHECK(!is_open);
	CHECK(options->heartbeat_s == cqrs_heartbeat_s);
	CHECK(options->connect_timeout_ms == cqrs_connect_timeout_ms);
	CHECK(strcmp(options->exchange, cqrs_exchange) == 0);
	CHECK(strcmp(options->url->scheme, "amqp") == 0);
	CHECK(strcmp(options->url->password, PASSWORD) == 0);
	CHECK(options->url->host[0] == 'h');
	tried = options->url->host[1] - '0';
	is_open = accepts;
	return accepts ? &connection : NULL;
}

static void
close_scripted(CqrsConnection *closed, bool politely)
{
	CHECK(is_open && closed == &connection);
	is_open = false;
}

static const CqrsTransport scripted = {
	.scheme = "amqp",
	.connect = connect_scripted,
	.close = close_scripted
};

const CqrsTransport *
cqrs_transport_of(const char *url)
{
	return &scripted;
}

/* The last URL has no password; it is in a file. */
bool
cqrs_password_find(const CqrsTransport *transport, const CqrsUrl *url,
				   char **password, CqrsFailure *failure)
{
	*password = url->password == NULL ? pstrdup(PASSWORD) : NULL;
	return true;
}

CqrsUrl
cqrs_transport_complete(const CqrsTransport *transport, const CqrsUrl *url)
{
	return *url;
}

void
cqrs_failure_clean(char *buffer, Size size, const char *text, Size length)
{
	strlcpy(buffer, text, size);
}

const char *
cqrs_guc_url(void)
{
	return urls[setting];
}

static void
check_no_password(const char *memory, Size size)
{
	CHECK(memmem(memory, size, PASSWORD, strlen(PASSWORD)) == NULL);
}

/* The next attempt is due "doublings" after "now", a quarter less at most. */
static void
expect_delay(int doublings, int limit_ms)
{
	double		ms = cqrs_reconnect_delay_ms;

	for (int i = 0; i < doublings && ms < cqrs_reconnect_delay_max_ms; i++)
		ms *= 2;
	ms = Min(ms, cqrs_reconnect_delay_max_ms);
	earliest = now_us + (TimestampTz) (Min(ms * 0.75, limit_ms) - 1) * 1000;
	latest = now_us + (TimestampTz) Min(ms, limit_ms) * 1000;
}

static void
put_off(CqrsBlame blame, bool resolved)
{
	cqrs_session_put_off(session, blame, resolved);
	leased = 0;
	if (resolved)
		failures = 0;
	expect_delay(failures / nhosts[setting], PG_INT32_MAX);
	if (!resolved)
		failures++;
	if (blame == CQRS_BLAME_TRANSPORT)
		host = (host + 1) % nhosts[setting];
}

static CqrsBlame
any_blame(void)
{
	static const CqrsBlame blames[] = {
		CQRS_BLAME_TRANSPORT, CQRS_BLAME_TRANSPORT, CQRS_BLAME_ROUTE,
		CQRS_BLAME_MESSAGE
	};

	return blames[any(lengthof(blames))];
}

static void
try_to_connect(void)
{
	CqrsConnectOptions options = {.name = "n",.lease = "l"};
	CqrsFailure failure = {0};

	accepts = any(4) == 0;
	tried = -1;
	CHECK(cqrs_session_connect(session, &options, &failure) == accepts);
	CHECK(tried == host % nhosts[setting]);
	CHECK(session->address[1] - '0' == tried && session->address[2] == ':');
	if (accepts)
	{
		leased = 0;
		opened_setting = setting;
		opened_exchange = cqrs_exchange[0];
	}
	else if (any(3) == 0)
	{
		leased++;
		CHECK(cqrs_session_refused(session) == leased);
		expect_delay(leased - 1, LEASE_MS);
	}
	else
		put_off(any_blame(), any(8) == 0);
}

static void
close_connection(void)
{
	cqrs_session_close(session, any(2) == 0);
	CHECK(session->connection == NULL && !is_open);
}

static void
reload(void)
{
	bool		differs;

	setting = any(lengthof(urls));
	cqrs_exchange = any(4) == 0 ? "y" : "x";
	differs = is_open &&
		(setting != opened_setting || cqrs_exchange[0] != opened_exchange);
	CHECK(cqrs_session_reload(session) == differs);
	failures = 0;
	earliest = latest = 0;
	if (differs)
		close_connection();
}

static void
check_wait(void)
{
	long		wait_ms = cqrs_session_wait_ms(session);

	CHECK(wait_ms >= (earliest - now_us) / 1000);
	CHECK(wait_ms <= Max(latest - now_us, 0) / 1000 + 1);
	CHECK(session->connection == (is_open ? &connection : NULL));
}

static void check_clock(void);

static void
step(void)
{
	/* Until the attempt is due, a moment before, or any time. */
	switch (any(3))
	{
		case 0:
			now_us += cqrs_session_wait_ms(session) * 1000;
			break;
		case 1:
			now_us += any(1000);
			break;
	}
	switch (any(16))
	{
		case 0:
			reload();
			break;
		case 1:
			cqrs_session_hurry(session);
			earliest = latest = 0;
			break;
		case 2:
			cqrs_session_recover(session);
			failures = 0;
			break;
		case 3:
		case 4:
			if (is_open)
			{
				close_connection();
				put_off(any_blame(), any(8) == 0);
			}
			break;
		default:
			if (!is_open && urls[setting] != NULL &&
				cqrs_session_wait_ms(session) == 0)
			{
				CHECK(now_us >= earliest);
				try_to_connect();
			}
			break;
	}
	check_wait();
	check_clock();
}

/* When the clock of the system is set back, no attempt waits until it is there. */
static void
check_clock(void)
{
	TimestampTz before = now_us;

	now_us -= USECS_PER_DAY;
	CHECK(cqrs_session_wait_ms(session) == 0);
	now_us = before;
}

/* Nothing but the network fails: each host has its turn, by and by. */
static void
check_rounds(void)
{
	int			turns[HOSTS] = {0};

	if (is_open)
		close_connection();
	setting = 3;
	accepts = false;
	for (int i = 0; i < 2 * HOSTS; i++)
	{
		CqrsConnectOptions options = {.name = "n",.lease = "l"};
		CqrsFailure failure;

		CHECK(!cqrs_session_connect(session, &options, &failure));
		turns[tried]++;
		put_off(CQRS_BLAME_TRANSPORT, false);
		check_wait();
	}
	for (int i = 0; i < HOSTS; i++)
		CHECK(turns[i] == 2);
}

static void
run(void)
{
	now_us = INT64CONST(1000000000);
	setting = 1 + any(lengthof(urls) - 1);
	cqrs_exchange = "x";
	cqrs_reconnect_delay_ms = 10 + any(2000);
	cqrs_reconnect_delay_max_ms = cqrs_reconnect_delay_ms + any(60000);
	is_open = false;
	host = failures = leased = 0;
	earliest = latest = 0;
	session = cqrs_session_create(cqrs_guc_url, false);
	for (int i = 0; i < STEPS; i++)
		step();
	check_rounds();
}

int
main(int argc, char **argv)
{
	on_free = check_no_password;
	return run_schedules(argc, argv, run,
						 "random lives of a session, of 200 steps");
}
