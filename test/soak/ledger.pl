# The ledger: random transactions under random faults, for ten minutes, or as
# long as CQRS_SOAK_S says.
use strict;
use warnings;

use Ledger;
use Test::More;

run_ledger(duration_s => $ENV{CQRS_SOAK_S} // 600);
done_testing();
