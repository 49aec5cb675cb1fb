# pg_upgrade --link carries masters, backlog and watermark over, and replicas,
# failed messages and what handlers have had; and what it makes is not taken for
# a copy (I31).
use strict;
use warnings;

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQ;
use Test::More;

my $broker = RabbitMQ->new('pg_upgrade');
$broker->start;
my @init = (init => [ extra => [ '--encoding=UTF8', '--locale=C' ] ]);
my $old  = new_master('old', $broker, @init);
$old->safe_psql(
	'postgres', q{
	CREATE TABLE author (id int PRIMARY KEY, name text, other text);
	SELECT cqrs_register('author', fields => '{id,name}',
		field_map => '{"id": "key"}');
	ALTER TABLE author RENAME COLUMN name TO full_name;
	CREATE FUNCTION author_meta(a author, text, jsonb, jsonb) RETURNS jsonb
		LANGUAGE sql STABLE
		AS $$SELECT jsonb_build_object('initial', left(a.full_name, 1))$$;
	SELECT cqrs_alter('author', '{"meta": "author_meta"}');
	CREATE SCHEMA app;
	CREATE TABLE app.book (id int PRIMARY KEY);
	SELECT cqrs_register('app.book')});
declare_queue($broker, 'replica', 'author', 'book');
$old->safe_psql('postgres', q{INSERT INTO author VALUES (1, 'Ada')});
wait_published($old);
is(scalar(drain_queue($broker, 'replica')), 1, 'published by the old server');

# A backlog.
$old->safe_psql('postgres', 'SELECT cqrs_pause()');
wait_for_state($old, 'paused');
$old->safe_psql(
	'postgres', q{
	UPDATE author SET full_name = 'Bob';
	INSERT INTO app.book VALUES (1), (2)});

# Another database, which neither is paused nor has a backlog.
$old->safe_psql('postgres', 'CREATE DATABASE shop');
$old->safe_psql(
	'shop', q{
	CREATE EXTENSION cqrs;
	CREATE TABLE book (id int PRIMARY KEY);
	SELECT cqrs_register('book');
	CREATE TABLE reader (id int PRIMARY KEY, name text CHECK (name <> 'bad'));
	CREATE TABLE handled (id int);
	CREATE FUNCTION handle(m cqrs.message) RETURNS boolean LANGUAGE sql AS
		$$INSERT INTO public.handled VALUES (m.instance_pk::text::int);
		SELECT true$$;
	SELECT cqrs_register_replica('reader', retry_delay => '1 hour');
	SELECT cqrs_register_replica(NULL, 'event', handler => 'public.handle');
	SELECT cqrs_consume('shop')});
wait_consumer($old, 'shop', 'consuming');
my $event = [ 'id 1', save_body('event', 1, 'x') ];
publish(
	$broker, 'cqrs', 'reader',
	save_body('reader', 1, 'good'),
	save_body('reader', 2, 'bad'), $event);
wait_consumer($old, 'shop', 'received = 3 AND buffered = 0');
my $MASTERS = 'SELECT * FROM cqrs.master ORDER BY cqrs_id';
my $BACKLOG = 'SELECT id, signal_type, cqrs_id, instance_pk, committed_at
	FROM cqrs.outbox ORDER BY id';
my $masters = $old->safe_psql('postgres', $MASTERS);
my $backlog = $old->safe_psql('postgres', $BACKLOG);
my $last    = $old->safe_psql('postgres', 'SELECT max(id) FROM cqrs.outbox');

# What the consumer has.
my @CONSUMER = (
	'SELECT * FROM cqrs.replica ORDER BY cqrs_id',
	'SELECT * FROM cqrs.failed',
	'SELECT * FROM cqrs.handled_0',
	'SELECT queue, quorum, paused, dropping, epoch, timeline, database FROM cqrs.consumer'
);
my @consumer = map { $old->safe_psql('shop', $_) } @CONSUMER;
$old->stop;

# Meanwhile messages arrive: one is repeated, one fails.
publish(
	$broker, 'cqrs', 'reader', $event,
	save_body('reader', 3, 'bad'),
	save_body('reader', 4, 'good'));

my $new = new_master('new', undef, @init, extension => 0);
$new->stop;
chdir $PostgreSQL::Test::Utils::tmp_check;
my $bindir = `pg_config --bindir` =~ s/\n\z//r;
command_ok(
	[   'pg_upgrade',   '--retain', '--link',       '-d',
		$old->data_dir, '-D',       $new->data_dir, '-b',
		$bindir,        '-B',       $bindir,        '-s',
		$new->host,     '-p',       $old->port,     '-P',
		$new->port ],
	'pg_upgrade');

# Where it keeps that depends on its version.
my ($log) = grep { -e } 'pg_upgrade_server.log',
  glob($new->data_dir . '/pg_upgrade_output.d/*/log/pg_upgrade_server.log');
unlike(
	slurp_file($log // BAIL_OUT('pg_upgrade has left no log')),
	qr/cqrs (launcher|publisher)/,
	'meanwhile no process of ours runs in either server');

$new->start;
is($new->safe_psql('postgres', $MASTERS), $masters, 'masters');
is($new->safe_psql('postgres', $BACKLOG), $backlog, 'the backlog is kept');
is($new->safe_psql('postgres', 'SELECT paused FROM cqrs.publisher'),
	't', 'so is the pause');
is_deeply([ map { $new->safe_psql('shop', $_) } @CONSUMER ],
	\@consumer,
	'replicas, failed and handled messages, the queue and its epoch');
$new->safe_psql('postgres', q{UPDATE author SET full_name = 'Carl'});
cmp_ok($new->safe_psql('postgres', 'SELECT max(id) FROM cqrs.outbox'),
	'>', $last, 'ids continue');
is( $new->safe_psql(
		'postgres', 'SELECT count(*), count(DISTINCT id) FROM cqrs.outbox'),
	'4|4',
	'one more message');

$new->append_conf('postgresql.conf', "cqrs.url = '" . $broker->url . "'");
$new->reload;
$new->safe_psql('postgres', 'SELECT cqrs_resume()');
wait_published($new);
my @messages = drain_queue($broker, 'replica');
is_deeply(
	[   map {
			[   $_->{body}{cqrs_id},
				$_->{body}{instance_pk},
				$_->{body}{instance_data}{name},
				$_->{body}{instance_data}{cqrs_revision} ]
		} @messages ],
	[   [ 'author', 1, 'Bob',  1 ],
		[ 'book',   1, undef,  0 ],
		[ 'book',   2, undef,  0 ],
		[ 'author', 1, 'Carl', 2 ] ],
	'the new server publishes the backlog and what comes after it');
is($messages[3]{body}{meta}{initial}, 'C', 'functions are called');
$new->safe_psql('shop', 'INSERT INTO book VALUES (7)');
wait_published($new, 'shop');
is(join(',', arrived_keys($broker, 'replica')),
	'7', 'another database goes on by itself');

# Its consumer goes on, too.
wait_consumer($new, 'shop', 'received = 3 AND buffered = 0');
is( $new->safe_psql(
		'shop', 'SELECT repeated, inserted FROM cqrs.consumer_stats'),
	'1|1',
	'the consumer goes on by itself, and knows what a handler has had');
is($new->safe_psql('shop', 'SELECT count(*) FROM handled'),
	1, 'the handler is not called again');
is( $new->safe_psql(
		'shop', 'SELECT array_agg(instance_pk ORDER BY id) FROM cqrs.failed'),
	'{2,3}',
	'what fails is stored after what has failed before');
is( $new->safe_psql(
		'shop',
		q{SELECT string_agg(item || ' ' || status, ', ') FROM cqrs_check()
		WHERE item LIKE '%consumer%' OR item LIKE 'replica%'}
	),
	'consumer ok, replica event ok, replica reader ok',
	'cqrs_check has nothing to say of the consumer');
$new->safe_psql(
	'shop', q{
	ALTER TABLE reader DROP CONSTRAINT reader_name_check;
	SELECT cqrs_retry_failed()});
ok( $new->poll_query_until('shop', 'SELECT count(*) = 4 FROM reader'),
	'what has failed before the upgrade is applied after it');
$new->stop;
done_testing();
