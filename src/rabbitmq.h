/*-------------------------------------------------------------------------
 *
 * rabbitmq.h
 *	  The headers of librabbitmq, which release 0.12 has moved.
 *
 * Those at the old place warn that they are going.  test/ includes this, too.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_RABBITMQ_H
#define CQRS_RABBITMQ_H

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#endif

#endif							/* CQRS_RABBITMQ_H */
