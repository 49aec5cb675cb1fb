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

/*
 * Take a lease.  KEYS: it, and those that have to be vacant.  ARGV: owner,
 * epoch, time to live in ms.  The lease's value is "owner epoch batch".  The
 * owner stands for a server process of PostgreSQL, the epoch for one of its
 * connections.  A lease of the same owner is taken over: what the connection
 * that had it may still send is refused from then on.
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

/* Give up a lease.  KEYS: it.  ARGV: owner and epoch. */
#define CQRS_SCRIPT_DROP_LEASE \
	"local value = redis.call('GET', KEYS[1])\n" \
	"if string.match(value or '', '^%S+ %S+') == ARGV[1] then redis.call('DEL', KEYS[1]) end\n" \
	"return 1\n"

/* Set a mark.  KEYS: lease, mark.  ARGV: owner and epoch, text. */
#define CQRS_SCRIPT_WRITE_MARK \
	"local value = redis.call('GET', KEYS[1])\n" \
	"if string.match(value or '', '^%S+ %S+') ~= ARGV[1] then\n" \
	"  return redis.error_reply('LEASE ' .. KEYS[1] .. ' belongs to another connection')\n" \
	"end\n" \
	"redis.call('SET', KEYS[2], ARGV[2])\n" \
	"return 1\n"

/*
 * Publish a batch, and renew the lease.  KEYS: set of the exchange's bindings,
 * lease.  ARGV: owner and epoch, time to live in ms, number of the batch,
 * "probe" or "", then for each message its routing key, and its envelope up to
 * its id.  The reply has the number of queues of each message, and ends with
 * the error at which the script had to stop.
 *
 * Batches come in sequence, so that one that was stopped also stops those that
 * are in flight behind it.  A probe that was stopped does not.
 *
 * The server refuses a script's first write if it is short of memory, and no
 * later one.  So a message is the first that is written; the lease is renewed
 * afterwards, which needs no memory.
 *
 * Messages are routed as Kombu does: "*" is one or more characters but dots,
 * "#" any characters or none, an empty pattern matches all, and a queue counts
 * once.  The delivery tag differs between queues, because Kombu's consumers
 * record deliveries of all queues in one hash by their tags.
 */
#define CQRS_SCRIPT_PUBLISH \
	"local value = redis.call('GET', KEYS[2])\n" \
	"local owner, last = string.match(value or '', '^(%S+ %S+) (%d+)$')\n" \
	"if owner ~= ARGV[1] then\n" \
	"  return redis.error_reply('LEASE ' .. KEYS[2] .. ' belongs to another connection')\n" \
	"end\n" \
	"if tonumber(ARGV[3]) ~= last + 1 then return redis.error_reply('GAP ' .. last) end\n" \
	"local routes, exact, wild, tags, bad = {}, {}, {}, {}, {}\n" \
	"for i = 5, #ARGV, 2 do exact[ARGV[i]] = exact[ARGV[i]] or {} end\n" \
	"local function pattern(key)\n" \
	"  local words = {}\n" \
	"  for word in string.gmatch(key .. '.', '(.-)%.') do\n" \
	"    if word == '*' then word = '[^%.]+'\n" \
	"    elseif word == '#' then word = '.-'\n" \
	"    else word = string.gsub(word, '%W', '%%%0') end\n" \
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
	"  end\n" \
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
	"local function push(i)\n" \
	"  local queues = routes[ARGV[i]] or route(ARGV[i])\n" \
	"  for _, queue in ipairs(queues) do\n" \
	"    if bad[queue] then return bad[queue] end\n" \
	"  end\n" \
	"  for _, queue in ipairs(queues) do\n" \
	"    local result = redis.pcall('LPUSH', queue, ARGV[i + 1] .. tags[queue])\n" \
	"    if type(result) == 'table' and result.err then return result end\n" \
	"  end\n" \
	"  return #queues\n" \
	"end\n" \
	"local out, stopped = {}, false\n" \
	"if #ARGV > 4 then\n" \
	"  local members = redis.pcall('SMEMBERS', KEYS[1])\n" \
	"  if members.err then\n" \
	"    out[1] = members\n" \
	"    stopped = true\n" \
	"  else\n" \
	"    for _, member in ipairs(members) do add_binding(member) end\n" \
	"  end\n" \
	"end\n" \
	"for i = 5, #ARGV, 2 do\n" \
	"  if stopped then break end\n" \
	"  out[#out + 1] = push(i)\n" \
	"  stopped = type(out[#out]) == 'table'\n" \
	"end\n" \
	"local result = {}\n" \
	"if ARGV[4] == 'probe' or not stopped then\n" \
	"  result = redis.pcall('SET', KEYS[2], owner .. ' ' .. ARGV[3], 'PX', ARGV[2])\n" \
	"end\n" \
	"if result.err or stopped then redis.pcall('PEXPIRE', KEYS[2], ARGV[2]) end\n" \
	"return result.err and result or out\n"

#endif							/* CQRS_REDIS_SCRIPTS_H */
