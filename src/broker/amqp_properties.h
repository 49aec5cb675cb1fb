/*-------------------------------------------------------------------------
 *
 * amqp_properties.h
 *	  What is needed of properties and tables that a broker sends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_AMQP_PROPERTIES_H
#define CQRS_AMQP_PROPERTIES_H

#include "postgres.h"

#include "broker/rabbitmq.h"

/*
 * Find the message id in encoded properties of class basic.  Returns false if
 * there is none, or if the properties are malformed.
 */
extern bool cqrs_amqp_properties_message_id(amqp_bytes_t properties,
											amqp_bytes_t *message_id);

/*
 * The header x-delivery-count in encoded properties of class basic; 0 if there
 * is none, or if the properties are malformed.
 */
extern int64 cqrs_amqp_properties_delivery_count(amqp_bytes_t properties);

/*
 * The version of RabbitMQ in the encoded arguments of connection.start, as 4002
 * for 4.2; 0 for another broker, and if "arguments" is NULL or malformed.
 */
extern int	cqrs_amqp_properties_version(const amqp_bytes_t *arguments);

#endif							/* CQRS_AMQP_PROPERTIES_H */
