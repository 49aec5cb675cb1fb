# The ledger of the whole way: master to replica under random faults, for ten
# minutes, or as long as CQRS_SOAK_S says.
use strict;
use warnings;

use FollowLedger;
use Test::More;

run_follow_ledger(duration_s => $ENV{CQRS_SOAK_S} // 600);
done_testing();
