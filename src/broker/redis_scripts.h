/*-------------------------------------------------------------------------
 *
 * redis_scripts.h
 *	  What the transport to Redis has the server do, in Lua.
 *
 * A script is atomic.  The error codes LEASE and GAP are of these scripts; all
 * others are the server's.  Errors of single commands are caught, since they
 * concern a message and not the script.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_REDIS_SCRIPTS_H
#define CQRS_REDIS_SCRIPTS_H

/* Kombu's separator in members of binding sets: \x06\x16, decimal in Lua. */
#define LUA_SEPARATOR "'\\6\\22'"

/* A hash of members of a set, as they come. */
#define LUA_DIGEST "redis.sha1hex(table.concat(members, ' '))"

/*
 * Take a lease.  KEYS: the lease, and the leases that have to be vacant.
 * ARGV: owner, epoch, time to live in ms.  The lease's value is "owner epoch
 * batch".  The owner stands for a server process of PostgreSQL, the epoch for
 * one of its connections.  A lease of the same owner is taken over: requests
 * that still come from the connection that had it are refused from then on.
 */
#define CQRS_SCRIPT_TAKE_LEASE \
	"for _, key in ipairs(KEYS) do\n" \
	"  local value = redis.call('GET', key)\n" \
	"  if value and string.match(value, '^%S+') ~= ARGV[1] then\n" \
	"    return redis.error_reply('LEASE ' .. key .. ' belongs to another connection')\n" \
	"  end\n" \
	"end\n" \
	"for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end\n" \
	"redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2] .. ' 0', 'PX', ARGV[3])\n" \
	"return 1\n"

/* Give up leases.  KEYS: the leases.  ARGV: owner and epoch. */
#define CQRS_SCRIPT_DROP_LEASES \
	"for _, key in ipairs(KEYS) do\n" \
	"  local value = redis.call('GET', key)\n" \
	"  if string.match(value or '', '^%S+ %S+') == ARGV[1] then redis.call('DEL', key) end\n" \
	"end\n" \
	"return 1\n"

/*
 * Publish a batch, and renew the lease.  KEYS: set of the exchange's bindings,
 * lease.  ARGV: owner and epoch, time to live in ms, number of the batch,
 * "probe" or "", the limit of queues, the end of the envelopes, then the
 * envelope of each message, then the routing key of each.  The reply has the
 * number of queues of each message, or the name of one that is full.  It ends
 * with the error at which the script had to stop, or, if all messages went to
 * one queue, with the end of its envelopes, a hash of the bindings and its name,
 * or with the end of the envelopes of the first queue, if that is another one.
 * A queue that is full stays so for the whole batch.
 *
 * Batches come in sequence, so that a batch that was stopped also stops the
 * batches that are in flight behind it.  A probe that was stopped does not.
 *
 * Messages are collected for each queue, and pushed by one command.  If that
 * fails, the script has stopped at the first message of that queue; other queues
 * get twice what they already have.
 *
 * The server refuses a script's first write if it is short of memory, and no
 * later one.  So the script writes a message first, and renews the lease
 * afterwards, which needs no memory.
 *
 * Messages are routed as Kombu does: "*" is one or more characters but dots,
 * "#" any characters or none, an empty pattern matches all, and a queue counts
 * once.  A star within a word repeats the character before it.  The delivery tag differs between queues, because Kombu's consumers
 * record deliveries of all queues in one hash by their tags.
 */
#define CQRS_SCRIPT_PUBLISH \
	"local value = redis.call('GET', KEYS[2])\n" \
	"local owner, last = string.match(value or '', '^(%S+ %S+) (%d+)$')\n" \
	"if owner ~= ARGV[1] then\n" \
	"  return redis.error_reply('LEASE ' .. KEYS[2] .. ' belongs to another connection')\n" \
	"end\n" \
	"if tonumber(ARGV[3]) ~= last + 1 then return redis.error_reply('GAP ' .. last) end\n" \
	"local routes, exact, wild, tags, bad, room = {}, {}, {}, {}, {}, {}\n" \
	"local limit, count, digest = tonumber(ARGV[5]), (#ARGV - 6) / 2, false\n" \
	"for i = 7 + count, #ARGV do exact[ARGV[i]] = exact[ARGV[i]] or {} end\n" \
	"local function pattern(key)\n" \
	"  local words = {}\n" \
	"  for word in string.gmatch(key .. '.', '(.-)%.') do\n" \
	"    if word == '*' then word = '[^%.]+'\n" \
	"    elseif word == '#' then word = '.-'\n" \
	"    else word = string.gsub(word, '[^%w*]', '%%%0') end\n" \
	"    words[#words + 1] = word\n" \
	"  end\n" \
	"  return '^' .. table.concat(words, '%.') .. '$'\n" \
	"end\n" \
	"local function add_binding(member)\n" \
	"  local a, b = string.find(member, " LUA_SEPARATOR ", 1, true)\n" \
	"  if not b then return end\n" \
	"  local c, d = string.find(member, " LUA_SEPARATOR ", b + 1, true)\n" \
	"  if not d or d == #member then return end\n" \
	"  local key, queue = string.sub(member, 1, a - 1), string.sub(member, d + 1)\n" \
	"  if c == b + 1 then wild[#wild + 1] = {'', queue}\n" \
	"  elseif string.find(key, '[*#]') then wild[#wild + 1] = {pattern(key), queue}\n" \
	"  elseif exact[key] then exact[key][queue] = true end\n" \
	"end\n" \
	"local function check(queue)\n" \
	"  tags[queue] = '-' .. string.sub(redis.sha1hex(queue), 1, 8) .. '\"}}'\n" \
	"  local kind = redis.pcall('TYPE', queue)\n" \
	"  if kind.err then bad[queue] = kind\n" \
	"  elseif kind.ok ~= 'list' and kind.ok ~= 'none' then\n" \
	"    bad[queue] = redis.error_reply('WRONGTYPE key \"' .. queue .. '\" is no queue but a ' .. kind.ok)\n" \
	"  elseif limit > 0 then room[queue] = limit - redis.call('LLEN', queue) end\n" \
	"end\n" \
	"local function route(key)\n" \
	"  local set, list = exact[key], {}\n" \
	"  for _, w in ipairs(wild) do\n" \
	"    local ok, hit = pcall(string.find, key, w[1])\n" \
	"    if ok and hit then set[w[2]] = true end\n" \
	"  end\n" \
	"  for queue in pairs(set) do\n" \
	"    if not tags[queue] then check(queue) end\n" \
	"    list[#list + 1] = queue\n" \
	"  end\n" \
	"  table.sort(list)\n" \
	"  routes[key] = list\n" \
	"  return list\n" \
	"end\n" \
	"local function may_undo(queue)\n" \
	"  local length, head = redis.pcall('LLEN', queue), redis.pcall('LINDEX', queue, 0)\n" \
	"  local trimmed = redis.pcall('LTRIM', queue, 0, -1)\n" \
	"  return type(length) == 'number' and type(head) == 'string' and not trimmed.err\n" \
	"end\n" \
	"local out, stopped, lists, order, tail = {}, false, {}, {}, ARGV[6]\n" \
	"local single = true\n" \
	"local function push(i)\n" \
	"  local key = ARGV[i + count]\n" \
	"  local queues = routes[key] or route(key)\n" \
	"  if #queues ~= 1 then single = false end\n" \
	"  for _, queue in ipairs(queues) do\n" \
	"    if bad[queue] then return bad[queue] end\n" \
	"    if room[queue] and room[queue] <= 0 then single = false return queue end\n" \
	"  end\n" \
	"  for _, queue in ipairs(queues) do\n" \
	"    local envelope = ARGV[i]\n" \
	"    if tags[queue] ~= tail then\n" \
	"      envelope = string.sub(envelope, 1, -1 - #tail) .. tags[queue]\n" \
	"    end\n" \
	"    local list = lists[queue]\n" \
	"    if not list then\n" \
	"      list = {}\n" \
	"      lists[queue] = list\n" \
	"      order[#order + 1] = {queue, #out + 1}\n" \
	"    end\n" \
	"    list[#list + 1] = envelope\n" \
	"    if room[queue] then room[queue] = room[queue] - 1 end\n" \
	"  end\n" \
	"  return #queues\n" \
	"end\n" \
	"if count > 0 then\n" \
	"  local members = redis.pcall('SMEMBERS', KEYS[1])\n" \
	"  if members.err then\n" \
	"    out[1] = members\n" \
	"    stopped = true\n" \
	"  else\n" \
	"    for _, member in ipairs(members) do add_binding(member) end\n" \
	"    digest = " LUA_DIGEST "\n" \
	"  end\n" \
	"end\n" \
	"for i = 7, 6 + count do\n" \
	"  if stopped then break end\n" \
	"  out[#out + 1] = push(i)\n" \
	"  stopped = type(out[#out]) == 'table'\n" \
	"end\n" \
	"for _, item in ipairs(order) do\n" \
	"  local queue, first = item[1], item[2]\n" \
	"  local result = redis.pcall('LPUSH', queue, unpack(lists[queue]))\n" \
	"  if type(result) == 'table' and result.err then\n" \
	"    for j = #out, first + 1, -1 do out[j] = nil end\n" \
	"    out[first] = result\n" \
	"    stopped = true\n" \
	"    break\n" \
	"  end\n" \
	"end\n" \
	"local queue = not stopped and order[1] and order[1][1]\n" \
	"if queue and single and not order[2] and may_undo(queue) then\n" \
	"  out[#out + 1] = {tags[queue], digest, queue}\n" \
	"elseif queue and tags[queue] ~= tail then\n" \
	"  out[#out + 1] = tags[queue]\n" \
	"end\n" \
	"local result = {}\n" \
	"if ARGV[4] == 'probe' or not stopped then\n" \
	"  result = redis.pcall('SET', KEYS[2], owner .. ' ' .. ARGV[3], 'PX', ARGV[2])\n" \
	"end\n" \
	"if result.err or stopped then redis.pcall('PEXPIRE', KEYS[2], ARGV[2]) end\n" \
	"return result.err and result or out\n"

/*
 * The end of a transaction that has pushed a batch to one queue: renew the lease
 * if the script above would have done the same, else undo.  KEYS: set of the
 * exchange's bindings, lease, queue.  ARGV: owner and epoch, time to live in ms,
 * number of the batch, the hash of the bindings that led to the queue, the limit
 * of queues, the number of messages, and the end of the last one's envelope.
 *
 * Nobody sees the queue before the transaction ends.  Nothing here may raise
 * an error, since that would undo nothing.  If the first message of the list
 * is not the last one of the batch, the list has no message of the batch:
 * LPUSH itself has failed.
 */
#define CQRS_SCRIPT_VERIFY \
	"local value = redis.pcall('GET', KEYS[2])\n" \
	"local owner, last = string.match(type(value) == 'string' and value or '', '^(%S+ %S+) (%d+)$')\n" \
	"local head = redis.pcall('LINDEX', KEYS[3], 0)\n" \
	"local pushed = type(head) == 'string' and string.sub(head, -#ARGV[7]) == ARGV[7]\n" \
	"local result\n" \
	"if owner ~= ARGV[1] then\n" \
	"  result = redis.error_reply('LEASE ' .. KEYS[2] .. ' belongs to another connection')\n" \
	"elseif tonumber(ARGV[3]) ~= last + 1 then result = redis.error_reply('GAP ' .. last)\n" \
	"else\n" \
	"  local members, length = redis.pcall('SMEMBERS', KEYS[1]), redis.pcall('LLEN', KEYS[3])\n" \
	"  local limit = tonumber(ARGV[5])\n" \
	"  if not pushed or members.err or type(length) ~= 'number' or " LUA_DIGEST " ~= ARGV[4] or\n" \
	"    limit > 0 and length > limit then\n" \
	"    result = redis.error_reply('ROUTE has changed')\n" \
	"  else\n" \
	"    result = redis.pcall('SET', KEYS[2], owner .. ' ' .. ARGV[3], 'PX', ARGV[2])\n" \
	"  end\n" \
	"end\n" \
	"if not result.err then return 1 end\n" \
	"if pushed then redis.pcall('LTRIM', KEYS[3], ARGV[6], -1) end\n" \
	"return result\n"

/*
 * Begin to consume a queue.  KEYS: queue, its lease, number of its messages
 * that were delivered.  ARGV: owner, epoch, time to live of the lease in ms.
 * The reply is the number.
 */
#define CQRS_SCRIPT_SUBSCRIBE \
	"local value = redis.call('GET', KEYS[2])\n" \
	"if value and string.match(value, '^%S+') ~= ARGV[1] then\n" \
	"  return redis.error_reply('LEASE another connection consumes queue ' .. KEYS[1])\n" \
	"end\n" \
	"local length = redis.call('LLEN', KEYS[1])\n" \
	"redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])\n" \
	"return math.min(length, tonumber(redis.call('GET', KEYS[3]) or 0))\n"

/*
 * Acknowledge deliveries, and return more of them.  KEYS: queue, its lease,
 * number of its messages that were delivered, lease of the connection if it
 * has one.  ARGV: owner and epoch, time to live of the leases in ms, number of
 * deliveries that the connection holds, the most messages and the most bytes
 * to return, the size of the largest message, and a part of the text of each
 * message to acknowledge.
 *
 * Messages stay in the queue, at its right end, until they are acknowledged.
 * A message that is not where it was is searched for nearby: a consumer of
 * Kombu's may have taken messages, or given some back.  Messages that were
 * delivered and are not acknowledged stay counted, whether they were delivered
 * to this connection or to one before.  In place of a message that is too
 * large its size is returned, and nothing after it.
 */
#define CQRS_SCRIPT_CONSUME \
	"local function check(key)\n" \
	"  local value = redis.call('GET', key)\n" \
	"  return string.match(value or '', '^%S+ %S+') == ARGV[1]\n" \
	"end\n" \
	"for i = 2, #KEYS do\n" \
	"  if i ~= 3 and not check(KEYS[i]) then\n" \
	"    return redis.error_reply('LEASE ' .. KEYS[i] .. ' belongs to another connection')\n" \
	"  end\n" \
	"end\n" \
	"for i = 2, #KEYS do\n" \
	"  if i ~= 3 then redis.call('PEXPIRE', KEYS[i], ARGV[2]) end\n" \
	"end\n" \
	"local held, count, bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])\n" \
	"local function acknowledge(mark)\n" \
	"  for j = 1, held + 8 do\n" \
	"    local message = redis.call('LINDEX', KEYS[1], -j)\n" \
	"    if not message then break end\n" \
	"    if string.find(message, mark, 1, true) then\n" \
	"      if j == 1 then redis.call('RPOP', KEYS[1])\n" \
	"      else redis.call('LREM', KEYS[1], -1, message) end\n" \
	"      break\n" \
	"    end\n" \
	"  end\n" \
	"  held = held - 1\n" \
	"end\n" \
	"for i = 7, #ARGV do acknowledge(ARGV[i]) end\n" \
	"local out, size, step = {}, 0, 1\n" \
	"while count > 0 do\n" \
	"  local from = held + #out + 1\n" \
	"  local part = redis.call('LRANGE', KEYS[1], -(from + step - 1), -from)\n" \
	"  if #part < step then count = #part end\n" \
	"  for i = #part, 1, -1 do\n" \
	"    if size > 0 and size + #part[i] > bytes then count = 0 break end\n" \
	"    if #part[i] > tonumber(ARGV[6]) then\n" \
	"      out[#out + 1] = #part[i]\n" \
	"      count = 0\n" \
	"      break\n" \
	"    end\n" \
	"    out[#out + 1] = part[i]\n" \
	"    size = size + #part[i]\n" \
	"    count = count - 1\n" \
	"  end\n" \
	"  step = math.min(count, 64, 1 + math.floor(bytes / (size + 1)))\n" \
	"end\n" \
	"local before = redis.call('GET', KEYS[3])\n" \
	"local rest = math.min((tonumber(before) or 0) - (#ARGV - 6), redis.call('LLEN', KEYS[1]))\n" \
	"local delivered = string.format('%d', math.max(held + #out, rest))\n" \
	"if before ~= delivered then redis.pcall('SET', KEYS[3], delivered) end\n" \
	"return out\n"

/*
 * Remove bindings of a queue whose regular expression may differ from ours.
 * KEYS: set of bindings.  ARGV: queue, routing keys; none: all of the queue.
 */
#define CQRS_SCRIPT_UNBIND \
	"local unbound, separator = {}, " LUA_SEPARATOR "\n" \
	"for i = 2, #ARGV do unbound[ARGV[i]] = true end\n" \
	"for _, member in ipairs(redis.call('SMEMBERS', KEYS[1])) do\n" \
	"  local a, b = string.find(member, separator, 1, true)\n" \
	"  local c, d = string.find(member, separator, (b or 0) + 1, true)\n" \
	"  if b and d and string.sub(member, d + 1) == ARGV[1] and\n" \
	"    (#ARGV == 1 or unbound[string.sub(member, 1, a - 1)]) then\n" \
	"    redis.call('SREM', KEYS[1], member)\n" \
	"  end\n" \
	"end\n" \
	"return 1\n"

#endif							/* CQRS_REDIS_SCRIPTS_H */
