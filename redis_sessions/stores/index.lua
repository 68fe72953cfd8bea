-- The index of one principal, or of one alias: KEYS[1] is a hash. ARGV[1] names the operation; the rest are its arguments.
--
--   field         holds
--   an id         "L authenticated seen expires descriptor": the entry of a session that signed in.
--                 Once its token was replaced, "@rotated " (10 digits) is in front of the descriptor: the
--                 `rotated_at` of its newest record. Version 0.1.0 takes that for a part of the descriptor
--   marks         a mark for each session that ended lately, the oldest first. A mark is an id (20 characters),
--                 when the session would have expired (13), and when it was marked (17)
--   meta          "revoked happened before floor last keep":
--                 revoked   when all sessions were revoked, later than each time before; -1 if never
--                 happened  when that was on the server's clock alone, or later: sign-ins under way are refused by it
--                 keep      the session that this revocation excepted
--                 before    the `revoked` of before, which holds for `keep`
--                 floor     when the last of the marks was made that had to be removed; -1 if none was
--                 last      the latest time that this index has given
--
-- Times are milliseconds on this server's own clock, with microseconds behind the point. An index never gives
-- the same time twice. Ages are counted back from the clock itself. An operation works on some hundred
-- fields at most, however many there are.

local MARKS, WIDTH = 256, 50
local SAMPLE = 8           -- fields that each write looks at, to remove those that have expired
local DEADLINE = 30000     -- after so many milliseconds the writes of a request are over
local NOBODYS = 4294967295 -- a `rotated_at` that no record has

local key, what = KEYS[1], ARGV[1]

local found = redis.pcall('HMGET', key, 'meta', 'marks')
if found.err then
  -- A key of another type has the name of this index. It is removed, since it would prevent sign-ins.
  if not string.find(found.err, 'WRONGTYPE', 1, true) then return found end
  redis.call('PEXPIRE', key, 0)
  found = {false, false}
end

local marks = found[2] or ''
local N = '(-?%d[%d.]*) '
local revoked, happened, before, floor, last, keep = string.match(found[1] or '', '^' .. N .. N .. N .. N .. N .. '(%S*)$')
revoked, happened, before = tonumber(revoked or -1), tonumber(happened or -1), tonumber(before or -1)
floor, last, keep = tonumber(floor or -1), tonumber(last or 0), keep or ''

-- After a failover the clock may be behind. What comes later has a later time all the same.
local time = redis.call('TIME')
local clock = time[1] * 1000 + time[2] / 1000
local now = math.max(clock, last + 0.001)
-- By a clock that is behind, a revocation has happened by now at the latest. Else it would refuse every
-- sign-in until that clock has caught up.
happened = math.min(happened, clock)

local function whole(n) return string.format('%.0f', math.floor(n)) end
local function exact(n) return string.format('%.3f', n) end

local function get(id)
  local value = redis.call('HGET', key, id)
  local authenticated, seen, expires, descriptor =
    string.match(value or '', '^L (%d+) ([%d.]+) (%d+) (.*)$')
  if not expires then return nil end
  local rotated, rest = string.match(descriptor, '^@(%d%d%d%d%d%d%d%d%d%d) (.*)$')
  return {
    authenticated = tonumber(authenticated), seen = seen, expires = tonumber(expires),
    rotated = tonumber(rotated or 0), descriptor = rest or descriptor,
  }
end

local function put(id, authenticated, seen, expires, rotated, descriptor)
  now = math.max(now, authenticated)  -- a revocation that comes next has a later time
  if rotated > 0 then descriptor = string.format('@%010.0f ', rotated) .. descriptor end
  local times = 'L ' .. whole(authenticated) .. ' ' .. seen .. ' ' .. whole(expires)
  redis.call('HSET', key, id, times .. ' ' .. descriptor)
end

local function put_meta()
  local times = {exact(revoked), exact(happened), exact(before), exact(floor), exact(now), keep}
  redis.call('HSET', key, 'meta', table.concat(times, ' '))
end

-- The hash outlives its longest entry.
local function keep_until(expires)
  local sample = redis.call('HRANDFIELD', key, SAMPLE, 'WITHVALUES')
  for i = 1, #sample, 2 do
    local over = string.match(sample[i + 1], '^L %d+ [%d.]+ (%d+)')
    if over and tonumber(over) <= now then redis.call('HDEL', key, sample[i]) end
  end
  local ttl = math.max(1, expires - now)
  if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, whole(ttl + 1)) end
end

local function is_marked(id)
  local at = string.find(marks, id, 1, true)
  while at do
    if at % WIDTH == 1 then return true end
    at = string.find(marks, id, at + 1, true)
  end
  return false
end

-- A sign-out must not fail for want of memory. The server checks its memory only until a script has written.
local function pass_memory_check()
  redis.call('PEXPIRE', key, math.max(1, redis.call('PTTL', key)))
end

-- Whether this was more than the deadline ago. If it is far ahead, the clock has been set back, or is behind.
local function is_settled(at) return math.abs(clock - at) >= DEADLINE end

-- The status of a session that was authenticated at this time, and whose token was replaced at this one.
local function status(id, authenticated, rotated, entry)
  local overtaken = authenticated <= (id == keep and before or revoked)
  if overtaken or is_marked(id) then return 'ended' end
  if not entry then return authenticated <= floor and 'unsure' or 'missing' end
  local outdated = authenticated < entry.authenticated and is_settled(entry.authenticated)
    or rotated < entry.rotated and is_settled(entry.rotated * 1000)
  return outdated and 'outdated' or 'live'
end

if what == 'enter' then
  -- id, age, own revocation (-1), ttl, descriptor -> {status, authenticated, size, ms since the last revocation (-1)}
  local id, own = ARGV[2], tonumber(ARGV[4])
  local at = math.max(clock - ARGV[3], own + 0.001)
  if is_marked(id) then return {'ended', '0', 0, '-1'} end
  if revoked > own and (own >= 0 or happened >= at) then
    put_meta()  -- `happened`: whose request begins after this isn't refused
    return {'refused', '0', 0, '-1'}
  end
  -- A record has whole milliseconds. The next one is taken, so that no revocation of before ends the session.
  local since = math.max(revoked, own)
  local authenticated = math.max(math.ceil(at), math.floor(since) + 1)
  -- Requests that cross may enter one session in an alias' index. The record of either goes by the same time.
  local entry = get(id)
  if entry and entry.authenticated > since then authenticated = entry.authenticated end
  local expires = now + ARGV[5]
  put(id, authenticated, exact(now), expires, entry and entry.rotated or 0, ARGV[6])
  put_meta()
  keep_until(expires)
  local size = redis.call('HLEN', key) - (marks == '' and 1 or 2)
  return {'live', whole(authenticated), size, revoked > own and exact(clock - happened) or '-1'}

elseif what == 'ask' then
  -- id, authenticated, rotated -> status
  return status(ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), get(ARGV[2]))

elseif what == 'touch' then
  -- id, authenticated, ttl, descriptor, the status under the other secret keys, rotated
  -- -> {status, this server's clock}
  local id, authenticated, elsewhere, rotated = ARGV[2], tonumber(ARGV[3]), ARGV[6], tonumber(ARGV[7])
  local entry = get(id)
  local here = status(id, authenticated, rotated, entry)
  if here == 'ended' or here == 'outdated' then return {here, exact(clock)} end
  if not entry and elsewhere ~= 'live' and (here == 'unsure' or elsewhere == 'unsure') then
    return {'ended', exact(clock)}
  end
  local latest, descriptor, expires = authenticated, ARGV[5], now + ARGV[4]
  if entry then
    latest = math.max(latest, entry.authenticated)
    rotated = math.max(rotated, entry.rotated)
    -- A late touch by the record of before has a descriptor of before, too.
    if descriptor == '' or authenticated < entry.authenticated then descriptor = entry.descriptor end
  end
  put(id, latest, exact(now), expires, rotated, descriptor)
  put_meta()
  keep_until(expires)
  return {'live', exact(clock)}

elseif what == 'authenticated' then
  -- id, authenticated, descriptor, rotated, the `rotated` of the record that was replaced -> 1.
  -- The times of an entry go forward only.
  local id, authenticated, entry = ARGV[2], tonumber(ARGV[3]), get(ARGV[2])
  local rotated, replaced = tonumber(ARGV[5]), tonumber(ARGV[6])
  if entry then
    -- A record was rotated that had been replaced, and had come back. Neither record is trusted any more.
    if replaced < entry.rotated and entry.rotated < rotated then rotated = NOBODYS end
    local latest, descriptor = math.max(entry.authenticated, authenticated), ARGV[4]
    if descriptor == '' or authenticated < entry.authenticated then descriptor = entry.descriptor end
    put(id, latest, entry.seen, entry.expires, math.max(rotated, entry.rotated), descriptor)
    put_meta()
  end
  return 1

elseif what == 'mark' then
  -- id, ttl -> 1 if it had an entry
  -- This comes first, so that it also writes if the mark is there: WAIT needs a write to wait for.
  pass_memory_check()
  local id = ARGV[2]
  if is_marked(id) then return 0 end
  local entry = get(id)
  local expires = entry and entry.expires or now + ARGV[3]
  if #marks >= MARKS * WIDTH then
    local over, marked = tonumber(string.sub(marks, 21, 33)), tonumber(string.sub(marks, 34, WIDTH))
    if over > now then floor = math.max(floor, marked) end
    marks = string.sub(marks, WIDTH + 1)
  end
  local most = 9999999999999  -- what there is room for
  marks = marks .. id .. string.format('%013.0f%017.3f', math.min(math.floor(expires), most), math.min(now, most))
  if entry then redis.call('HDEL', key, id) end
  redis.call('HSET', key, 'marks', marks)
  put_meta()
  keep_until(expires)
  return entry and 1 or 0

elseif what == 'revoke' then
  -- the id to keep (or ''), how long to remember -> the time. All sessions of before have ended by it.
  pass_memory_check()
  if ARGV[2] == '' or ARGV[2] ~= keep then before = revoked end
  revoked, happened, keep = now, clock, ARGV[2]
  put_meta()
  keep_until(now + ARGV[3])
  return exact(now)

elseif what == 'remove' then
  -- until, id ... -> 1. The entries go that a revocation at this time has ended. If nothing is left that the
  -- index has to know, it goes, too: there is an index of an alias for each sign-in at a provider.
  for i = 3, #ARGV do
    local entry = get(ARGV[i])
    if entry and entry.authenticated <= tonumber(ARGV[2]) then redis.call('HDEL', key, ARGV[i]) end
  end
  if revoked < 0 and marks == '' and redis.call('HLEN', key) == 1 then redis.call('HDEL', key, 'meta') end
  return 1
end

return redis.error_reply('ERR unknown operation')
