
=pod

=head1 NAME

RawPublish - publishes messages to RabbitMQ exactly as given

=head1 SYNOPSIS

  use RawPublish;

  publish_raw($broker,
	{   exchange    => 'cqrs',
		routing_key => 'author',
		properties  => '{content_type, <<"text/plain">>}, {delivery_mode, 2}',
		body        => "\xff\0" });

=head1 DESCRIPTION

publish_raw() publishes messages in the order of its arguments, in one call of
rabbitmqctl.  The properties are Erlang's, without the brackets of the list, so
that they can be all that AMQP has types for.  Bodies are bytes, and can be
large: they go through a file of the broker's directory.

=cut

package RawPublish;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(publish_raw);

sub publish_raw
{
	my ($broker, @messages) = @_;
	my $bodies = $broker->dir . '/bodies';
	my $list   = $broker->dir . '/messages';
	my $offset = 0;

	open my $blob, '>:raw', $bodies or die "could not create $bodies: $!";
	open my $fh,   '>:raw', $list   or die "could not create $list: $!";
	foreach my $message (@messages)
	{
		my $length = length $message->{body};

		print $blob $message->{body};
		print $fh
		  qq({<<"$message->{exchange}">>, <<"$message->{routing_key}">>,),
		  qq( [@{[ $message->{properties} // '' ]}], $offset, $length}.\n);
		$offset += $length;
	}
	close $blob or die "could not write $bodies: $!";
	close $fh   or die "could not write $list: $!";

	# RabbitMQ 4 has another function, which takes all properties.
	$broker->ctl('eval', <<"END");
{ok, Bodies} = file:read_file("$bodies"),
{ok, Messages} = file:consult("$list"),
{module, _} = code:ensure_loaded(rabbit_basic),
Publish = case erlang:function_exported(rabbit_basic, publish, 4) of
	true -> fun rabbit_basic:publish/4;
	false -> fun(Exchange, Key, Properties, Body) ->
		All = ['P_basic' | [proplists:get_value(Name, Properties) || Name <- [
			content_type, content_encoding, headers, delivery_mode, priority,
			correlation_id, reply_to, expiration, message_id, timestamp, type,
			user_id, app_id, cluster_id]]],
		Content = rabbit_basic:build_content(list_to_tuple(All), Body),
		{ok, Message} = mc_amqpl:message(Exchange, Key, Content),
		rabbit_queue_type:publish_at_most_once(Exchange, Message)
	end
end,
[ok = Publish({resource, <<"/">>, exchange, Exchange}, Key,
	Properties, binary:copy(binary:part(Bodies, Offset, Length)))
	|| {Exchange, Key, Properties, Offset, Length} <- Messages],
ok.
END
	unlink $bodies, $list;
	return;
}

1;
