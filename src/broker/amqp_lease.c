/*-------------------------------------------------------------------------
 *
 * amqp_lease.c
 *	  The lease of a connection by AMQP 0-9-1, as an exclusive queue.
 *
 * No other connection can declare an exclusive queue of that name until the
 * broker has noticed the end of this one.  Where that does not do, the lease is
 * a token (amqp_token.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "broker/amqp.h"

static bool declare_exclusive(CqrsConnection *connection, const char *name,
							  CqrsFailure *failure);
static bool check_vacant(CqrsConnection *connection, List *names,
						 CqrsFailure *failure);

bool
cqrs_amqp_take_lease(CqrsConnection *connection, const char *name,
					 List *vacant, CqrsFailure *failure)
{
	List	   *rest = list_copy(vacant);
	bool		taken;

	taken = connection->has_tokens ?
		cqrs_amqp_take_token(connection, name, &rest, failure) :
		declare_exclusive(connection, name, failure);

	/* A lane that is connected to an older node has an exclusive queue. */
	taken = taken && check_vacant(connection, rest, failure);
	list_free(rest);
	return taken;
}

/* The queue never has a binding. */
static bool
declare_exclusive(CqrsConnection *connection, const char *name,
				  CqrsFailure *failure)
{
	amqp_queue_declare_t declare = {0};
	amqp_frame_t frame;

	declare.queue = amqp_cstring_bytes(name);
	declare.exclusive = 1;
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_CHANNEL,
								AMQP_QUEUE_DECLARE_METHOD, &declare);
	return cqrs_amqp_await(connection, CQRS_AMQP_CHANNEL,
						   AMQP_QUEUE_DECLARE_OK_METHOD, CQRS_AMQP_TAKING, &frame,
						   failure);
}

/*
 * Deleting a queue that does not exist succeeds.  If a queue is exclusive to
 * another connection, the broker refuses to delete it and closes the channel.
 * The queue of a token, which newer nodes of the cluster have, is not deleted,
 * either: RabbitMQ refuses if_unused while the queue has a consumer, or closes the
 * connection, if it cannot tell for a quorum queue.  Only the last answer is waited
 * for, as the broker handles requests in order.
 */
static bool
check_vacant(CqrsConnection *connection, List *names, CqrsFailure *failure)
{
	amqp_frame_t frame;
	ListCell   *lc;

	foreach(lc, names)
	{
		amqp_queue_delete_t delete = {0};

		delete.queue = amqp_cstring_bytes(lfirst(lc));
		delete.if_unused = 1;
		delete.nowait = lnext(names, lc) != NULL;
		cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_CHANNEL,
									AMQP_QUEUE_DELETE_METHOD, &delete);
	}
	return names == NIL ||
		cqrs_amqp_await(connection, CQRS_AMQP_CHANNEL,
						AMQP_QUEUE_DELETE_OK_METHOD, CQRS_AMQP_TAKING_ALL, &frame,
						failure);
}
