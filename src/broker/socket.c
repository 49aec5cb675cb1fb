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
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "base/timing.h"
#include "broker/lookup.h"
#include "broker/socket.h"

struct CqrsWire
{
	int			fd;
	SSL_CTX    *context;		/* NULL: no TLS */
	SSL		   *ssl;
	char		error[CQRS_WIRE_ERROR_BYTES];
};

static int	connect_address(const struct addrinfo *address, int timeout_ms,
							char *error);
static bool wait_for(int fd, int events, TimestampTz deadline);
static bool start_tls(CqrsWire *stream, const char *host,
					  const CqrsTlsOptions *tls, TimestampTz deadline);
static bool load_files(CqrsWire *stream, const CqrsTlsOptions *tls);
static int	refuse_passphrase(char *buffer, int size, int writing, void *data);
static bool expect_host(CqrsWire *stream, const char *host);
static bool shake_hands(CqrsWire *stream, TimestampTz deadline);
static bool tls_failed(CqrsWire *stream, const char *what);
static ssize_t tls_result(CqrsWire *stream, int result);

CqrsWire   *
cqrs_wire_open(const char *host, int port, const CqrsTlsOptions *tls,
			   int timeout_ms, char *error)
{
	const char *reason = "";	/* keep compiler quiet */
	struct addrinfo *addresses = cqrs_lookup(host, port, timeout_ms, &reason);
	CqrsWire   *stream;
	int			on = 1;
	int			fd = -1;

	if (addresses == NULL)
	{
		snprintf(error, CQRS_WIRE_ERROR_BYTES,
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

	stream = MemoryContextAllocZero(TopMemoryContext, sizeof(CqrsWire));
	stream->fd = fd;
	if (tls != NULL &&
		!start_tls(stream, host, tls,
				   TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											   timeout_ms)))
	{
		strlcpy(error, stream->error, CQRS_WIRE_ERROR_BYTES);
		cqrs_wire_close(stream);
		return NULL;
	}
	return stream;
}

ssize_t
cqrs_wire_read(CqrsWire *stream, void *buffer, Size size)
{
	ssize_t		result;

	if (stream->ssl != NULL)
	{
		ERR_clear_error();
		return tls_result(stream, SSL_read(stream->ssl, buffer,
										   Min(size, INT_MAX)));
	}

	do
		result = recv(stream->fd, buffer, size, 0);
	while (result < 0 && errno == EINTR);
	if (result > 0)
		return result;
	if (result < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return 0;
	strlcpy(stream->error,
			result == 0 ? "the broker closed the socket" : strerror(errno),
			CQRS_WIRE_ERROR_BYTES);
	return -1;
}

ssize_t
cqrs_wire_write(CqrsWire *stream, const void *data, Size size)
{
	ssize_t		result;

	if (stream->ssl != NULL)
	{
		ERR_clear_error();
		return tls_result(stream, SSL_write(stream->ssl, data,
											Min(size, INT_MAX)));
	}

	do
		result = send(stream->fd, data, size, 0);
	while (result < 0 && errno == EINTR);
	if (result >= 0)
		return result;
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return 0;
	strlcpy(stream->error, strerror(errno), CQRS_WIRE_ERROR_BYTES);
	return -1;
}

const char *
cqrs_wire_error(const CqrsWire *stream)
{
	return stream->error;
}

bool
cqrs_wire_wait(CqrsWire *stream, bool write, TimestampTz deadline)
{
	return wait_for(stream->fd,
					WL_SOCKET_READABLE | (write ? WL_SOCKET_WRITEABLE : 0),
					deadline);
}

bool
cqrs_wire_may_go_on(TimestampTz deadline)
{
	/* DROP DATABASE elsewhere waits for all processes. */
	if (ProcSignalBarrierPending)
		ProcessProcSignalBarrier();
	return !ShutdownRequestPending && cqrs_until_ms(deadline) > 0;
}

pgsocket
cqrs_wire_socket(const CqrsWire *stream)
{
	return stream->fd;
}

void
cqrs_wire_close(CqrsWire *stream)
{
	SSL_free(stream->ssl);
	SSL_CTX_free(stream->context);
	close(stream->fd);
	pfree(stream);
}

/* A connected, non-blocking socket, or -1. */
static int
connect_address(const struct addrinfo *address, int timeout_ms, char *error)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   timeout_ms);
	int			fd = socket(address->ai_family,
							address->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC,
							address->ai_protocol);
	int			result = 0;
	socklen_t	length = sizeof(result);

	if (fd < 0)
	{
		snprintf(error, CQRS_WIRE_ERROR_BYTES,
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

	snprintf(error, CQRS_WIRE_ERROR_BYTES, "could not connect: %s",
			 strerror(result));
	close(fd);
	return -1;
}

/* As cqrs_wire_wait(), for the given events of a socket. */
static bool
wait_for(int fd, int events, TimestampTz deadline)
{
	/*
	 * The deadline also ends the wait for a peer that keeps the socket ready.
	 */
	while (cqrs_wire_may_go_on(deadline))
	{
		int			occurred = WaitLatchOrSocket(MyLatch,
												 events | WL_LATCH_SET |
												 WL_TIMEOUT |
												 WL_EXIT_ON_PM_DEATH,
												 fd, cqrs_until_ms(deadline),
												 cqrs_wait_event(CQRS_WAIT_CONNECT));

		if (occurred & WL_LATCH_SET)
			ResetLatch(MyLatch);
		if (occurred & events)
			return true;
	}
	return false;
}

static bool
start_tls(CqrsWire *stream, const char *host, const CqrsTlsOptions *tls,
		  TimestampTz deadline)
{
	ERR_clear_error();
	stream->context = SSL_CTX_new(TLS_client_method());
	if (stream->context == NULL)
		return tls_failed(stream, "could not set up TLS");
	SSL_CTX_set_min_proto_version(stream->context, TLS1_2_VERSION);
	/* Between two attempts the rest of the output may grow and move. */
	SSL_CTX_set_mode(stream->context, SSL_MODE_ENABLE_PARTIAL_WRITE |
					 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (!load_files(stream, tls))
		return false;
	SSL_CTX_set_verify(stream->context,
					   tls->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);

	stream->ssl = SSL_new(stream->context);
	if (stream->ssl == NULL || SSL_set_fd(stream->ssl, stream->fd) != 1 ||
		!expect_host(stream, host))
		return tls_failed(stream, "could not set up TLS");
	return shake_hands(stream, deadline);
}

static bool
load_files(CqrsWire *stream, const CqrsTlsOptions *tls)
{
	/* Without this OpenSSL would ask at the terminal. */
	SSL_CTX_set_default_passwd_cb(stream->context, refuse_passphrase);

	if (tls->verify && tls->ca_file[0] == '\0' &&
		SSL_CTX_set_default_verify_paths(stream->context) != 1)
		return tls_failed(stream, "could not load the system's CA certificates");
	if (tls->verify && tls->ca_file[0] != '\0' &&
		SSL_CTX_load_verify_locations(stream->context, tls->ca_file, NULL) != 1)
		return tls_failed(stream, "could not load \"cqrs.ssl_ca_file\"");
	if (tls->cert_file[0] != '\0' &&
		SSL_CTX_use_certificate_chain_file(stream->context,
										   tls->cert_file) != 1)
		return tls_failed(stream, "could not load \"cqrs.ssl_cert_file\"");
	if (tls->key_file[0] != '\0' &&
		SSL_CTX_use_PrivateKey_file(stream->context, tls->key_file,
									SSL_FILETYPE_PEM) != 1)
		return tls_failed(stream, "could not load \"cqrs.ssl_key_file\"");
	return true;
}

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
expect_host(CqrsWire *stream, const char *host)
{
	X509_VERIFY_PARAM *parameters = SSL_get0_param(stream->ssl);

	if (X509_VERIFY_PARAM_set1_ip_asc(parameters, host) == 1)
		return true;
	ERR_clear_error();
	return SSL_set_tlsext_host_name(stream->ssl, host) == 1 &&
		SSL_set1_host(stream->ssl, host) == 1;
}

static bool
shake_hands(CqrsWire *stream, TimestampTz deadline)
{
	for (;;)
	{
		int			result = SSL_connect(stream->ssl);
		int			error = SSL_get_error(stream->ssl, result);

		if (result == 1)
			return true;
		if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
		{
			long		verdict = SSL_get_verify_result(stream->ssl);

			if (verdict == X509_V_OK)
				return tls_failed(stream, "TLS handshake failed");
			snprintf(stream->error, CQRS_WIRE_ERROR_BYTES,
					 "the broker's certificate is not accepted: %s",
					 X509_verify_cert_error_string(verdict));
			return false;
		}
		if (!wait_for(stream->fd, error == SSL_ERROR_WANT_READ ?
					  WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE, deadline))
		{
			strlcpy(stream->error, "TLS handshake timed out",
					CQRS_WIRE_ERROR_BYTES);
			return false;
		}
	}
}

/* Keep OpenSSL's reason for a failure.  Returns false. */
static bool
tls_failed(CqrsWire *stream, const char *what)
{
	unsigned long code = ERR_get_error();
	const char *reason = ERR_reason_error_string(code);

	if (reason == NULL)
		reason = ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code)) :
			"the broker closed the socket";
	snprintf(stream->error, CQRS_WIRE_ERROR_BYTES, "%s: %s", what, reason);
	ERR_clear_error();
	return false;
}

/* The result of a read or write, derived from OpenSSL's result. */
static ssize_t
tls_result(CqrsWire *stream, int result)
{
	if (result > 0)
		return result;
	switch (SSL_get_error(stream->ssl, result))
	{
		case SSL_ERROR_WANT_READ:
		case SSL_ERROR_WANT_WRITE:
			return 0;
		case SSL_ERROR_ZERO_RETURN:
			strlcpy(stream->error, "the broker closed the connection",
					CQRS_WIRE_ERROR_BYTES);
			return -1;
		default:
			(void) tls_failed(stream, "TLS");
			return -1;
	}
}
