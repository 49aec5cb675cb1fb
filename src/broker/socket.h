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
	bool		verify;			/* the broker's certificate and its name */
} CqrsTlsOptions;

typedef struct CqrsWire CqrsWire;

#define CQRS_WIRE_ERROR_BYTES 300

/*
 * Connect; "tls" is NULL for plain TCP.  Waits for at most "timeout_ms" for
 * the name, for each address of it, and for the handshake of TLS; less when
 * the process is asked to end.  NULL on failure, with the reason in "error",
 * of CQRS_WIRE_ERROR_BYTES.  May take notice of the latch.
 */
extern CqrsWire *cqrs_wire_open(const char *host, int port,
								const CqrsTlsOptions *tls, int timeout_ms,
								char *error);

/*
 * Read or write what is possible without waiting.  Return the number of
 * bytes, 0 when nothing is possible now, -1 when the connection is gone.
 */
extern ssize_t cqrs_wire_read(CqrsWire *stream, void *buffer, Size size);
extern ssize_t cqrs_wire_write(CqrsWire *stream, const void *data,
							   Size size);

/* Why reading or writing has failed. */
extern const char *cqrs_wire_error(const CqrsWire *stream);

/*
 * Wait until there is something to read or, with "write", room to write.
 * Returns false when the deadline is over or the process is asked to end.
 */
extern bool cqrs_wire_wait(CqrsWire *stream, bool write,
						   TimestampTz deadline);

/*
 * For those who need not wait, because something is always there: false as
 * cqrs_wire_wait() is.
 */
extern bool cqrs_wire_may_go_on(TimestampTz deadline);

extern pgsocket cqrs_wire_socket(const CqrsWire *stream);

extern void cqrs_wire_close(CqrsWire *stream);

#endif							/* CQRS_SOCKET_H */
