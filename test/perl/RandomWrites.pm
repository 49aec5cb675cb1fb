
=pod

=head1 NAME

RandomWrites - scripts of random transactions on tables that are masters

=head1 SYNOPSIS

  use RandomWrites;

  my $sql    = setup_sql(\@tables);
  my $script = random_script(\@tables, $seed, transactions => 100);

=head1 DESCRIPTION

A script is for psql without ON_ERROR_STOP; many of its statements may fail,
some always do.  It depends on the seed alone, not on the database, so that
several sessions can run scripts at once; what they make of them together
depends on their timing.

A table is a hash:

=over

=item name, create

Its name, and the command that makes it.

=item key

The columns of its primary key; a hash of column to kind of value.

=item columns

Its other columns, likewise.  Kinds are those of %KINDS.

=item masters

Hashes with cqrs_id; options, what else cqrs_register() gets; fields, a hash of
published columns to their keys in messages, by default all columns under their
names; tracked, a list of columns, by default none; where, its sync_when, if any
(with leave => 'delete').

=item deferrable

Whether its primary key, of one column, is; then it has no ON CONFLICT.

=item without

Statements, by their names in @STATEMENTS, that this table is spared.

=back

=head1 FUNCTIONS

=over

=cut

package RandomWrites;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(setup_sql random_script);

# Few keys, so that sessions meet.
my $KEYS = 30;

my %KINDS = (
	key     => sub { return 1 + int(rand($KEYS)); },
	key_uid => sub {
		return sprintf(q('00000000-0000-0000-0000-%012d'), 1 + int(rand(6)));
	},
	key_part => sub { return pick(q('a'), q('b'),     q('c')); },
	key_text => sub { return pick(q('a'), q('b "c"'), q('d''\e'), q('')); },
	int      => sub { return rarely(10) ? 'NULL' : int(rand(100)) - 50; },
	number   => sub { return pick('NULL', '1.50', '-0.001', '1e30'); },
	text     => sub {
		return pick(
			'NULL',               q(''),
			q('x'),               q('"y" \z'),
			q(U&'\00E4\+01F600'), q(repeat('long ', 1000)),
			q(md5(random()::text)));
	},
	parent => sub { return rarely(5) ? 'NULL' : 1 + int(rand($KEYS)); },);

# Statements with their weights; each gets a table and returns SQL.
my @STATEMENTS = (
	[ insert      => 16, \&insert ],
	[ upsert      => 10, \&upsert ],
	[ update      => 24, \&update ],
	[ same        => 3,  \&same ],
	[ delete      => 10, \&delete_row ],
	[ replace     => 6,  \&replace ],
	[ move        => 8,  \&move ],
	[ bulk_update => 4,  \&bulk_update ],
	[ bulk_delete => 2,  \&bulk_delete ],
	[ bulk_insert => 3,  \&bulk_insert ],
	[ raise       => 2,  \&raise_revision ],
	[ truncate    => 1,  \&truncate_table ],
	[ cte         => 3,  \&cte ],
	[ merge       => 3,  \&merge ],
	[ lock        => 5,  \&lock_row ],
	[ cursor      => 2,  \&cursor ],
	[ block       => 4,  \&exception_block ],
	[ mirror      => 3,  \&mirror ],
	[ sync        => 4,  \&sync ],
	[ flush       => 3,  sub { return 'SELECT cqrs_flush()' } ],
	[ division    => 1,  sub { return 'SELECT 1 / 0' } ],);

sub pick   { return $_[ int(rand(@_)) ]; }
sub rarely { return rand(100) < $_[0]; }

=item setup_sql(\@tables)

The commands that make and register the tables.

=cut

sub setup_sql
{
	my ($tables) = @_;
	my @commands;

	foreach my $table (@$tables)
	{
		push @commands, $table->{create};
		foreach my $master (@{ $table->{masters} })
		{
			my $options = $master->{options} ? ", $master->{options}" : '';
			push @commands,
			  "SELECT cqrs_register('$table->{name}', '$master->{cqrs_id}'$options)";
		}
	}
	return join(";\n", @commands) . ";\n";
}

=item random_script(\@tables, $seed, %params)

The script.  C<transactions>: so many of them.  C<name>: makes the names of
prepared transactions differ from those of other scripts.

=cut

sub random_script
{
	my ($tables, $seed, %params) = @_;
	my @lines = (
		'SET client_min_messages = error;',
		"SET lock_timeout = '100ms'; SET statement_timeout = '20s';");

	srand($seed);
	foreach my $n (1 .. $params{transactions})
	{
		push @lines, random_transaction($tables, "$params{name}_$n");
		push @lines, finish_prepared() if rarely(15);
	}
	return join("\n", @lines) . "\n";
}

# Prepared transactions of all sessions; two may try at once.
sub finish_prepared
{
	return
		q{SELECT format('%s PREPARED %L',}
	  . q{ CASE WHEN gid LIKE '%keep' THEN 'COMMIT' ELSE 'ROLLBACK' END, gid)}
	  . q{ FROM pg_prepared_xacts WHERE database = current_database() \gexec};
}

sub random_transaction
{
	my ($tables, $name) = @_;
	my @lines;

	return random_statement($tables) . ';' if rarely(30);

	# With psql's own savepoint around each statement, errors end nothing.
	push @lines, '\set ON_ERROR_ROLLBACK ' . pick('on', 'off');
	push @lines,
	  'BEGIN'
	  . pick(
		'', '', '', '',
		' ISOLATION LEVEL REPEATABLE READ',
		' ISOLATION LEVEL SERIALIZABLE') . ';';
	push @lines, random_body($tables);
	push @lines,
		rarely(75) ? 'COMMIT;'
	  : rarely(50) ? 'ROLLBACK;'
	  : "PREPARE TRANSACTION '${name}_"
	  . pick('keep', 'keep', 'undo') . q(';);
	push @lines, '\set ON_ERROR_ROLLBACK off';
	return @lines;
}

# Statements and savepoints; the stack has the savepoints that exist.
sub random_body
{
	my ($tables) = @_;
	my (@lines, @stack);

	foreach my $n (1 .. 1 + int(rand(10)))
	{
		my $dice = rand(100);

		if ($dice < 15)
		{
			push @stack, 's' . int(rand(3));
			push @lines, "SAVEPOINT $stack[-1];";
		}
		elsif ($dice < 30 && @stack)
		{
			# to the innermost one of that name
			my $to   = int(rand(@stack));
			my $last = (grep { $stack[$_] eq $stack[$to] } 0 .. $#stack)[-1];
			my $release = rarely(35);

			push @lines,
			  ($release ? 'RELEASE' : 'ROLLBACK TO') . " $stack[$last];";
			splice @stack, $release ? $last : $last + 1;
		}
		else
		{
			push @lines, random_statement($tables) . ';';
		}
	}
	return @lines;
}

sub random_statement
{
	my ($tables) = @_;
	my $table    = pick(@$tables);
	my %without  = map { $_ => 1 } @{ $table->{without} // [] };
	$without{$_} = 1
	  foreach $table->{deferrable} ? qw(upsert bulk_insert) : 'mirror';
	my @choice = grep { !$without{ $_->[0] } } @STATEMENTS;
	my $total  = 0;

	$total += $_->[1] foreach @choice;
	my $dice = rand($total);
	foreach my $statement (@choice)
	{
		$dice -= $statement->[1];
		return $statement->[2]->($table) if $dice < 0;
	}
	die 'not reached';
}

# Pieces of statements.

sub names
{
	my ($columns) = @_;
	return sort keys %$columns;
}

sub value
{
	my ($table, $column) = @_;
	return $KINDS{ $table->{key}{$column} // $table->{columns}{$column} }->();
}

sub columns
{
	my ($table) = @_;
	return (names($table->{key}), names($table->{columns}));
}

sub row
{
	my ($table) = @_;
	return '(' . join(', ', map { value($table, $_) } columns($table)) . ')';
}

sub where
{
	my ($table) = @_;
	return
	  join(' AND ', map { "$_ = " . value($table, $_) } names($table->{key}));
}

# A part of the rows, by a hash of a column of the key.
sub part
{
	my ($table)  = @_;
	my ($column) = names($table->{key});
	my $parts    = 3 + int(rand(5));

	return "abs(hashtext(($column)::text)) % $parts = " . int(rand($parts));
}

sub assignments
{
	my ($table) = @_;
	my @columns = names($table->{columns});
	my @chosen  = grep { rarely(60) } @columns;

	@chosen = ($columns[0]) unless @chosen;
	return join(', ', map { "$_ = " . value($table, $_) } @chosen);
}

# The statements.

sub insert
{
	my ($table) = @_;
	return
		"INSERT INTO $table->{name} ("
	  . join(', ', columns($table))
	  . ') VALUES '
	  . join(', ', map { row($table) } 1 .. 1 + int(rand(2)))
	  . ($table->{deferrable} ? '' : pick('', ' ON CONFLICT DO NOTHING'));
}

sub upsert
{
	my ($table) = @_;
	return
		"INSERT INTO $table->{name} ("
	  . join(', ', columns($table))
	  . ') VALUES '
	  . row($table)
	  . ' ON CONFLICT ('
	  . join(', ', names($table->{key}))
	  . ') DO UPDATE SET '
	  . join(', ', map { "$_ = excluded.$_" } names($table->{columns}));
}

sub update
{
	my ($table) = @_;
	return
		"UPDATE $table->{name} SET "
	  . assignments($table)
	  . ' WHERE '
	  . where($table);
}

sub same
{
	my ($table)  = @_;
	my ($column) = names($table->{columns});
	return "UPDATE $table->{name} SET $column = $column WHERE "
	  . where($table);
}

sub delete_row
{
	my ($table) = @_;
	return "DELETE FROM $table->{name} WHERE " . where($table);
}

sub replace
{
	my ($table) = @_;
	return delete_row($table) . ";\n" . insert($table);
}

sub move
{
	my ($table) = @_;
	my $column = pick(names($table->{key}));
	return
		"UPDATE $table->{name} SET $column = "
	  . value($table, $column)
	  . ' WHERE '
	  . where($table);
}

sub bulk_update
{
	my ($table) = @_;
	return
		"UPDATE $table->{name} SET "
	  . assignments($table)
	  . ' WHERE '
	  . part($table);
}

sub bulk_delete
{
	my ($table) = @_;
	return "DELETE FROM $table->{name} WHERE " . part($table);
}

sub bulk_insert
{
	my ($table) = @_;
	return
		"INSERT INTO $table->{name} ("
	  . join(', ', columns($table))
	  . ') VALUES '
	  . join(', ', map { row($table) } 1 .. 20)
	  . ' ON CONFLICT DO NOTHING';
}

# Rows pass their keys on to each other.
sub mirror
{
	my ($table)  = @_;
	my ($column) = names($table->{key});
	return "UPDATE $table->{name} SET $column = 1 + $KEYS - $column";
}

# As an application does that counts revisions itself.
sub raise_revision
{
	my ($table) = @_;
	return
		"UPDATE $table->{name} SET cqrs_revision = cqrs_revision + 3, "
	  . assignments($table)
	  . ' WHERE '
	  . where($table);
}

sub truncate_table
{
	my ($table) = @_;
	return "TRUNCATE $table->{name} CASCADE";
}

sub cte
{
	my ($table) = @_;
	return
		'WITH gone AS ('
	  . delete_row($table)
	  . '), changed AS ('
	  . update($table) . ') '
	  . insert($table);
}

sub merge
{
	my ($table) = @_;
	my @columns = columns($table);
	my $on =
	  join(' AND ', map { "t.$_ = s.$_" } names($table->{key}));

	# The casts of a row of the table, for values of unknown type.
	my $source =
	  "(SELECT $table->{name}.* FROM $table->{name} WHERE "
	  . part($table) . ')';
	my ($column) = names($table->{columns});
	return
		"MERGE INTO $table->{name} t USING $source s ON $on AND "
	  . where_alias($table, 't')
	  . ' WHEN MATCHED THEN '
	  . pick('DELETE', "UPDATE SET $column = " . value($table, $column));
}

sub where_alias
{
	my ($table, $alias) = @_;
	my ($column) = names($table->{key});
	return "$alias.$column <> " . value($table, $column);
}

sub lock_row
{
	my ($table) = @_;
	return
		"SELECT 1 FROM $table->{name} WHERE "
	  . where($table)
	  . pick(
		' FOR UPDATE',
		' FOR NO KEY UPDATE',
		' FOR SHARE',
		' FOR KEY SHARE');
}

sub cursor
{
	my ($table)  = @_;
	my ($column) = names($table->{columns});
	my $value    = value($table, $column);
	return
		'DO $$DECLARE c CURSOR FOR SELECT * FROM '
	  . "$table->{name} WHERE "
	  . part($table)
	  . ' FOR UPDATE; BEGIN FOR r IN c LOOP '
	  . pick("UPDATE $table->{name} SET $column = $value WHERE CURRENT OF c",
		"DELETE FROM $table->{name} WHERE CURRENT OF c")
	  . '; END LOOP; END$$';
}

sub exception_block
{
	my ($table) = @_;
	return
		'DO $$BEGIN '
	  . update($table)
	  . '; BEGIN '
	  . pick(\&update, \&delete_row, \&insert, \&move)->($table) . '; '
	  . pick(\&update, \&delete_row, \&insert, \&move)->($table) . '; '
	  . pick('',       'RAISE EXCEPTION division_by_zero;')
	  . ' EXCEPTION WHEN unique_violation OR division_by_zero THEN '
	  . update($table)
	  . '; END; END$$';
}

sub sync
{
	my ($table) = @_;
	my $master  = pick(@{ $table->{masters} });
	my $filter  = part($table) =~ s/'/''/gr;
	return "SELECT cqrs_sync('$master->{cqrs_id}', '$filter')";
}

=back

=cut

1;
