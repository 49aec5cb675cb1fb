/*-------------------------------------------------------------------------
 *
 * rabbitmq.h
 *	  The headers of librabbitmq, which release 0.12 has moved.
 *
 * The headers at the old place warn that they are deprecated.  test/ includes
 * this file, too.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_RABBITMQ_H
#define CQRS_RABBITMQ_H

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#include <rabbitmq-c/tcp_socket.h>
#elif __has_include(<amqp.h>)
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#else
#error librabbitmq is missing, on Debian: apt-get install librabbitmq-dev
#endif

#endif							/* CQRS_RABBITMQ_H */
