-- One shard of the schedule of ends. ARGV[1] names the operation; the rest are its arguments.
--
--   KEYS[1]   a sorted set: an id, and when its session ends unless it is touched
--   KEYS[2]   a hash: an id, and what is sealed of its session. Empty: the session ended in another way
--
-- Times are milliseconds on this server's own clock. An operation works on some hundred ids at most.

local KEPT = 2592000000    -- an end that nobody has asked for within 30 days is forgotten
local MARKED = 60000       -- that a session has ended is known for longer than a request may write
local SAMPLE = 8           -- ends that each write looks at, to forget those

local ends, about, what, id = KEYS[1], KEYS[2], ARGV[1], ARGV[2]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function whole(n) return string.format('%.0f', n) end

local function forget(ids)
  if #ids > 0 then
    redis.call('ZREM', ends, unpack(ids))
    redis.call('HDEL', about, unpack(ids))
  end
end

local function put(ttl, text)
  forget(redis.call('ZRANGE', ends, '-inf', whole(now - KEPT), 'BYSCORE', 'LIMIT', 0, SAMPLE))
  redis.call('ZADD', ends, whole(now + ttl), id)
  redis.call('HSET', about, id, text)
  for _, key in ipairs(KEYS) do
    if redis.call('PTTL', key) < ttl + KEPT then redis.call('PEXPIRE', key, whole(ttl + KEPT)) end
  end
end

-- note: id, milliseconds until the session ends, what is sealed of it. It has no effect if the session has
-- ended in another way: the note was under way then.
if what == 'note' then
  if redis.call('HGET', about, id) ~= '' then put(tonumber(ARGV[3]), ARGV[4]) end
  return 0
end

-- end: id. The session has ended in another way. It has no effect on a shard that has nothing: then nobody may
-- keep the schedule.
if what == 'end' then
  if redis.call('PTTL', ends) ~= -2 then put(MARKED, '') end
  return 0
end

-- due: how many at most. The reply is 1 if there may be more, else 0; and of each session that may have run
-- out its id, when it was to end, and what is sealed of it. Nothing but marks is removed,
-- and what has a time that nobody noted.
if what == 'due' then
  local found = redis.call('ZRANGE', ends, '-inf', whole(now), 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
  local ids, marks, reply = {}, {}, {#found / 2 < tonumber(ARGV[2]) and 0 or 1}
  for i = 1, #found, 2 do ids[#ids + 1] = found[i] end
  local texts = #ids > 0 and redis.call('HMGET', about, unpack(ids)) or {}
  for i = 1, #ids do
    if texts[i] == '' or not string.match(found[2 * i], '^%d+$') then
      marks[#marks + 1] = ids[i]
    else
      reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = ids[i], found[2 * i], texts[i] or ''
    end
  end
  forget(marks)
  return reply
end

-- remove: ids, each with the time that it had when it was due. With another time it stays.
local ids = {}
for i = 2, #ARGV, 2 do
  if redis.call('ZSCORE', ends, ARGV[i]) == ARGV[i + 1] then ids[#ids + 1] = ARGV[i] end
end
forget(ids)
return 0
