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

typedef struct CqrsWire CqrsWire;

#define CQRS_WIRE_ERROR_BYTES 300

/*
 * Connect; "tls" is NULL for plain TCP.  Waits for at most "timeout_ms" each
 * for the lookup of the name, for every address, and for the TLS handshake;
 * less if the process is asked to end.  On failure returns NULL with the
 * reason in "error", which has CQRS_WIRE_ERROR_BYTES.  May reset the latch.
 */
extern CqrsWire *cqrs_wire_open(const char *host, int port,
								const CqrsTlsOptions *tls, int timeout_ms,
								char *error);

/*
 * Read or write without waiting.  Return the number of bytes, 0 if nothing can
 * be read or written now, -1 if the connection is gone.
 */
extern ssize_t cqrs_wire_read(CqrsWire *stream, void *buffer, Size size);
extern ssize_t cqrs_wire_write(CqrsWire *stream, const void *data,
							   Size size);

/* Why reading or writing has failed. */
extern const char *cqrs_wire_error(const CqrsWire *stream);

/*
 * Wait until there is something to read or, with "write", room to write.
 * Returns false if the deadline has passed or the process is asked to end.
 */
extern bool cqrs_wire_wait(CqrsWire *stream, bool write,
						   TimestampTz deadline);

/*
 * For loops that never wait, because there is always something to read.
 * Returns false under the same conditions as cqrs_wire_wait().
 */
extern bool cqrs_wire_may_go_on(TimestampTz deadline);

extern pgsocket cqrs_wire_socket(const CqrsWire *stream);

extern void cqrs_wire_close(CqrsWire *stream);

#endif							/* CQRS_SOCKET_H */
