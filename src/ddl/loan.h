/*-------------------------------------------------------------------------
 *
 * loan.h
 *	  Commands that would leave something in the session of another role.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LOAN_H
#define CQRS_LOAN_H

#include "postgres.h"

#include "nodes/nodes.h"

/*
 * Raise an error if a command would leave something behind, and the session is on
 * loan (base/security.h).
 */
extern void cqrs_loan_check(Node *statement);

#endif							/* CQRS_LOAN_H */
