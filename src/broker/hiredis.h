/*-------------------------------------------------------------------------
 *
 * hiredis.h
 *	  The headers of libhiredis, and what differs between its releases.
 *
 * Only the parser of replies is used; redis_reply.c says why.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_HIREDIS_H
#define CQRS_HIREDIS_H

#if __has_include(<hiredis/hiredis.h>)
#include <hiredis/hiredis.h>
#else
#error libhiredis is missing, on Debian: apt-get install libhiredis-dev; or build without Redis: make HIREDIS=0
#endif

#if HIREDIS_MAJOR >= 1
typedef size_t CqrsHiredisCount;
#else
typedef int CqrsHiredisCount;
#endif

#endif							/* CQRS_HIREDIS_H */
