/*-------------------------------------------------------------------------
 *
 * socket.h
 *	  A connection that carries bytes, by TCP or by TLS over it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SOCKET_H
#define CQRS_SOCKET_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* Files are in PEM format; "" stands for none. */
typedef struct CqrsTlsOptions
{
	const char *ca_file;		/* "": the system's */
	const char *cert_file;
	const char *key_file;
	bool		verify;			/* check the broker's certificate and name */
} CqrsTlsOptions;

typedef struct CqrsSocket CqrsSocket;

#define CQRS_SOCKET_ERROR_BYTES 300

/*
 * Connect; "tls" is NULL for plain TCP.  Waits for at most "timeout_ms" each
 * for the lookup of the name, for every address, and for the TLS handshake;
 * less if the process is asked to end.  On failure returns NULL with the
 * reason in "error", which has CQRS_SOCKET_ERROR_BYTES.  May reset the latch.
 */
extern CqrsSocket *cqrs_socket_open(const char *host, int port,
									const CqrsTlsOptions *tls, int timeout_ms,
									char *error);

/*
 * Read or write without waiting.  Return the number of bytes, 0 if nothing can
 * be read or written now, -1 if the connection is gone.
 */
extern ssize_t cqrs_socket_read(CqrsSocket *sock, void *buffer, Size size);
extern ssize_t cqrs_socket_write(CqrsSocket *sock, const void *data,
								 Size size);

/* Why reading or writing has failed. */
extern const char *cqrs_socket_error(const CqrsSocket *sock);

/* The time that is so far away, for the functions below. */
extern int64 cqrs_socket_deadline(int timeout_ms);

/*
 * Wait until there is something to read or, with "write", room to write.
 * Returns false if the deadline has passed or the process is asked to end.
 */
extern bool cqrs_socket_wait(CqrsSocket *sock, bool write, int64 deadline);

/*
 * For loops that never wait, because there is always something to read.
 * Returns false under the same conditions as cqrs_socket_wait().
 */
extern bool cqrs_socket_may_go_on(int64 deadline);

extern pgsocket cqrs_socket_fd(const CqrsSocket *sock);

extern void cqrs_socket_close(CqrsSocket *sock);

#endif							/* CQRS_SOCKET_H */
