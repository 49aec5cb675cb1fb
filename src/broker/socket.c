/*-------------------------------------------------------------------------
 *
 * socket.c
 *	  A connection that carries bytes, by TCP or by TLS over it.
 *
 * The socket is non-blocking, and every wait has a deadline and is also a wait
 * for the process's latch.  So a shutdown request is noticed wherever the
 * broker lets us hang.  Nothing here raises an error, but if the postmaster
 * dies, a wait ends the process.
 *
 * OpenSSL is used directly, because the TLS connect of librabbitmq cannot be
 * interrupted.  PostgreSQL ignores SIGPIPE in its processes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "broker/lookup.h"
#include "broker/socket.h"

struct CqrsSocket
{
	int			fd;
	SSL_CTX    *context;		/* NULL: no TLS */
	SSL		   *ssl;
	char		error[CQRS_SOCKET_ERROR_BYTES];
};

static int	connect_address(const struct addrinfo *address, int timeout_ms,
							char *error);
static int64 now_ms(void);
static bool wait_for(int fd, int events, int64 deadline);
static bool start_tls(CqrsSocket *sock, const char *host,
					  const CqrsTlsOptions *tls, int64 deadline);
static bool load_files(CqrsSocket *sock, const CqrsTlsOptions *tls);
static int	refuse_passphrase(char *buffer, int size, int writing, void *data);
static bool expect_host(CqrsSocket *sock, const char *host);
static bool shake_hands(CqrsSocket *sock, int64 deadline);
static bool tls_failed(CqrsSocket *sock, const char *what);
static ssize_t tls_result(CqrsSocket *sock, int result);

CqrsSocket *
cqrs_socket_open(const char *host, int port, const CqrsTlsOptions *tls,
				 int timeout_ms, char *error)
{
	const char *reason = "";	/* keep compiler quiet */
	struct addrinfo *addresses = cqrs_lookup(host, port, timeout_ms, &reason);
	CqrsSocket *sock;
	int			on = 1;
	int			fd = -1;

	Assert(MyBgworkerEntry != NULL);	/* I15 */
	if (addresses == NULL)
	{
		snprintf(error, CQRS_SOCKET_ERROR_BYTES,
				 "could not resolve host \"%s\": %s", host, reason);
		return NULL;
	}
	for (struct addrinfo *address = addresses;
		 address != NULL && fd < 0 && !ShutdownRequestPending;
		 address = address->ai_next)
		fd = connect_address(address, timeout_ms, error);
	freeaddrinfo(addresses);
	if (fd < 0)
		return NULL;

	/* These options are improvements only, so failures are ignored. */
	(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void) setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));

	sock = MemoryContextAllocZero(TopMemoryContext, sizeof(CqrsSocket));
	sock->fd = fd;
	if (tls != NULL &&
		!start_tls(sock, host, tls, cqrs_socket_deadline(timeout_ms)))
	{
		strlcpy(error, sock->error, CQRS_SOCKET_ERROR_BYTES);
		cqrs_socket_close(sock);
		return NULL;
	}
	return sock;
}

ssize_t
cqrs_socket_read(CqrsSocket *sock, void *buffer, Size size)
{
	ssize_t		result;

	if (sock->ssl != NULL)
	{
		ERR_clear_error();
		return tls_result(sock, SSL_read(sock->ssl, buffer,
										 Min(size, INT_MAX)));
	}

	do
		result = recv(sock->fd, buffer, size, 0);
	while (result < 0 && errno == EINTR);
	if (result > 0)
		return result;
	if (result < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return 0;
	strlcpy(sock->error,
			result == 0 ? "the broker closed the socket" : strerror(errno),
			CQRS_SOCKET_ERROR_BYTES);
	return -1;
}

ssize_t
cqrs_socket_write(CqrsSocket *sock, const void *data, Size size)
{
	ssize_t		result;

	if (sock->ssl != NULL)
	{
		ERR_clear_error();
		return tls_result(sock, SSL_write(sock->ssl, data,
										  Min(size, INT_MAX)));
	}

	do
		result = send(sock->fd, data, size, 0);
	while (result < 0 && errno == EINTR);
	if (result >= 0)
		return result;
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return 0;
	strlcpy(sock->error, strerror(errno), CQRS_SOCKET_ERROR_BYTES);
	return -1;
}

const char *
cqrs_socket_error(const CqrsSocket *sock)
{
	return sock->error;
}

bool
cqrs_socket_wait(CqrsSocket *sock, bool write, int64 deadline)
{
	return wait_for(sock->fd,
					WL_SOCKET_READABLE | (write ? WL_SOCKET_WRITEABLE : 0),
					deadline);
}

int64
cqrs_socket_deadline(int timeout_ms)
{
	return now_ms() + timeout_ms;
}

/* By a clock that nobody sets. */
static int64
now_ms(void)
{
	struct timespec now;

	(void) clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

bool
cqrs_socket_may_go_on(int64 deadline)
{
	/* DROP DATABASE elsewhere waits for all processes. */
	if (ProcSignalBarrierPending)
		ProcessProcSignalBarrier();
	return !ShutdownRequestPending && deadline > now_ms();
}

pgsocket
cqrs_socket_fd(const CqrsSocket *sock)
{
	return sock->fd;
}

void
cqrs_socket_close(CqrsSocket *sock)
{
	SSL_free(sock->ssl);
	SSL_CTX_free(sock->context);
	close(sock->fd);
	pfree(sock);
}

/* A connected, non-blocking socket, or -1. */
static int
connect_address(const struct addrinfo *address, int timeout_ms, char *error)
{
	int64		deadline = cqrs_socket_deadline(timeout_ms);
	int			fd = socket(address->ai_family,
							address->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC,
							address->ai_protocol);
	int			result = 0;
	socklen_t	length = sizeof(result);

	if (fd < 0)
	{
		snprintf(error, CQRS_SOCKET_ERROR_BYTES,
				 "could not create a socket: %s", strerror(errno));
		return -1;
	}
	if (connect(fd, address->ai_addr, address->ai_addrlen) == 0)
		return fd;

	result = errno;
	if (result == EINPROGRESS)
	{
		if (!wait_for(fd, WL_SOCKET_WRITEABLE, deadline))
			result = ShutdownRequestPending ? EINTR : ETIMEDOUT;
		else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &result, &length) < 0)
			result = errno;
	}
	if (result == 0)
		return fd;

	snprintf(error, CQRS_SOCKET_ERROR_BYTES, "could not connect: %s",
			 strerror(result));
	close(fd);
	return -1;
}

/* As cqrs_socket_wait(), for the given events of a socket. */
static bool
wait_for(int fd, int events, int64 deadline)
{
	/*
	 * The deadline also ends the wait for a peer that keeps the socket ready.
	 */
	while (cqrs_socket_may_go_on(deadline))
	{
		int			occurred = WaitLatchOrSocket(MyLatch,
												 events | WL_LATCH_SET |
												 WL_TIMEOUT |
												 WL_EXIT_ON_PM_DEATH,
												 fd, Max(deadline - now_ms(), 0),
												 cqrs_wait_event(CQRS_WAIT_CONNECT));

		if (occurred & WL_LATCH_SET)
			ResetLatch(MyLatch);
		if (occurred & events)
			return true;
	}
	return false;
}

/*
 * Begin TLS and shake hands.  Returns false, with the error set, if that
 * fails.
 */
static bool
start_tls(CqrsSocket *sock, const char *host, const CqrsTlsOptions *tls,
		  int64 deadline)
{
	ERR_clear_error();
	sock->context = SSL_CTX_new(TLS_client_method());
	if (sock->context == NULL)
		return tls_failed(sock, "could not set up TLS");
	SSL_CTX_set_min_proto_version(sock->context, TLS1_2_VERSION);
	/* Between two attempts the rest of the output may grow and move. */
	SSL_CTX_set_mode(sock->context, SSL_MODE_ENABLE_PARTIAL_WRITE |
					 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (!load_files(sock, tls))
		return false;
	SSL_CTX_set_verify(sock->context,
					   tls->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);

	sock->ssl = SSL_new(sock->context);
	if (sock->ssl == NULL || SSL_set_fd(sock->ssl, sock->fd) != 1 ||
		!expect_host(sock, host))
		return tls_failed(sock, "could not set up TLS");
	return shake_hands(sock, deadline);
}

/* Load certificates and the key; with "verify", authorities, too. */
static bool
load_files(CqrsSocket *sock, const CqrsTlsOptions *tls)
{
	/* Without this OpenSSL would ask at the terminal. */
	SSL_CTX_set_default_passwd_cb(sock->context, refuse_passphrase);

	if (tls->verify && tls->ca_file[0] == '\0' &&
		SSL_CTX_set_default_verify_paths(sock->context) != 1)
		return tls_failed(sock, "could not load the system's CA certificates");
	if (tls->verify && tls->ca_file[0] != '\0' &&
		SSL_CTX_load_verify_locations(sock->context, tls->ca_file, NULL) != 1)
		return tls_failed(sock, "could not load \"cqrs.ssl_ca_file\"");
	if (tls->cert_file[0] != '\0' &&
		SSL_CTX_use_certificate_chain_file(sock->context,
										   tls->cert_file) != 1)
		return tls_failed(sock, "could not load \"cqrs.ssl_cert_file\"");
	if (tls->key_file[0] != '\0' &&
		SSL_CTX_use_PrivateKey_file(sock->context, tls->key_file,
									SSL_FILETYPE_PEM) != 1)
		return tls_failed(sock, "could not load \"cqrs.ssl_key_file\"");
	return true;
}

/* OpenSSL asks for the passphrase of a key: there is none. */
static int
refuse_passphrase(char *buffer, int size, int writing, void *data)
{
	return 0;
}

/*
 * Send the name that we use to the broker, and have its certificate checked
 * against that name.
 */
static bool
expect_host(CqrsSocket *sock, const char *host)
{
	X509_VERIFY_PARAM *parameters = SSL_get0_param(sock->ssl);

	if (X509_VERIFY_PARAM_set1_ip_asc(parameters, host) == 1)
		return true;
	ERR_clear_error();
	return SSL_set_tlsext_host_name(sock->ssl, host) == 1 &&
		SSL_set1_host(sock->ssl, host) == 1;
}

/*
 * Returns false, with the error set, if the broker refuses, its certificate is
 * not accepted, or the deadline has come.
 */
static bool
shake_hands(CqrsSocket *sock, int64 deadline)
{
	for (;;)
	{
		int			result = SSL_connect(sock->ssl);
		int			error = SSL_get_error(sock->ssl, result);

		if (result == 1)
			return true;
		if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
		{
			long		verdict = SSL_get_verify_result(sock->ssl);

			if (verdict == X509_V_OK)
				return tls_failed(sock, "TLS handshake failed");
			snprintf(sock->error, CQRS_SOCKET_ERROR_BYTES,
					 "the broker's certificate is not accepted: %s",
					 X509_verify_cert_error_string(verdict));
			return false;
		}
		if (!wait_for(sock->fd, error == SSL_ERROR_WANT_READ ?
					  WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE, deadline))
		{
			strlcpy(sock->error, "TLS handshake timed out",
					CQRS_SOCKET_ERROR_BYTES);
			return false;
		}
	}
}

/* Keep OpenSSL's reason for a failure.  Returns false. */
static bool
tls_failed(CqrsSocket *sock, const char *what)
{
	unsigned long code = ERR_get_error();
	const char *reason = ERR_reason_error_string(code);

	if (reason == NULL)
		reason = ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code)) :
			"the broker closed the socket";
	snprintf(sock->error, CQRS_SOCKET_ERROR_BYTES, "%s: %s", what, reason);
	ERR_clear_error();
	return false;
}

/* The result of a read or write, derived from OpenSSL's result. */
static ssize_t
tls_result(CqrsSocket *sock, int result)
{
	if (result > 0)
		return result;
	switch (SSL_get_error(sock->ssl, result))
	{
		case SSL_ERROR_WANT_READ:
		case SSL_ERROR_WANT_WRITE:
			return 0;
		case SSL_ERROR_ZERO_RETURN:
			strlcpy(sock->error, "the broker closed the connection",
					CQRS_SOCKET_ERROR_BYTES);
			return -1;
		default:
			(void) tls_failed(sock, "TLS");
			return -1;
	}
}
