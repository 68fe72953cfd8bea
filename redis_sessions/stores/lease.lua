-- Who leads under one name: KEYS[1] is a hash. ARGV[1] names the operation; the rest are its arguments.
--
--   field   holds
--   holder  the claim of whoever leads, or led last; empty once it was released
--   token   the highest token that was given
--   since   when this was
--   until   when the lease ends
--   lease   how long it is
--   about   who the holder is, for people
--   start   when the last run of a schedule began
--   run     the id of this run
--
-- Times are microseconds on this server's own clock. Durations are milliseconds, here and in the replies. So no
-- two clocks are compared. Every operation may be repeated, since its first reply may have been lost.

local KEPT = '34560000000'  -- 400 days: as long as somebody could still hold an older token

local key, what, claim = KEYS[1], ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = redis.call('HMGET', key, 'holder', 'token', 'until', 'lease', 'start', 'run', 'since', 'about')
local holder, run, about = found[1] or '', found[6] or '', found[8] or ''

-- What isn't a number that can be counted from, such as in a damaged hash, is none.
local function number(text)
  local n = tonumber(string.match(text or '', '^%d+$') or 0)
  return n < 2 ^ 53 and n or 0
end
local token, ends, lease = number(found[2]), number(found[3]), number(found[4])
local start, since = number(found[5]), number(found[7])

local function put(...)
  redis.call('HSET', key, ...)
  redis.call('PEXPIRE', key, KEPT)
end

local function whole(n) return string.format('%.0f', n) end
local function milliseconds(n) return math.ceil(n / 1000) end

-- The clock was set back, or another server has another clock: nobody leads for longer than a lease.
if holder ~= '' and ends - now > lease then
  ends = now + lease
  if what == 'acquire' and holder ~= claim then put('until', whole(ends)) end
end
local leads = holder ~= '' and ends > now
local mine = leads and holder == claim

if what == 'acquire' then
  -- claim, lease, about, a token that was seen -> {1 if it is this claim's, token, ms until the lease ends}
  local length = ARGV[3] * 1000
  if leads and not mine then return {0, token, milliseconds(ends - now)} end
  if not mine then
    -- The time keeps tokens growing even if Redis has lost what it held.
    token = math.max(token, now, tonumber(ARGV[5])) + 1
    put('holder', claim, 'token', whole(token), 'since', whole(now), 'about', ARGV[4])
  end
  put('until', whole(now + length), 'lease', whole(length))
  return {1, token, milliseconds(length)}

elseif what == 'renew' then
  -- claim, lease -> 1 if it is this claim's still
  if not mine then return 0 end
  put('until', whole(now + ARGV[3] * 1000), 'lease', whole(ARGV[3] * 1000))
  return 1

elseif what == 'release' then
  -- claim -> 1
  if holder == claim then put('holder', '', 'until', '0') end
  return 1

elseif what == 'begin' then
  -- claim, the id of a run, interval -> ms until the run is due; 0: it begins now; -1 if the lease is over
  if not mine then return -1 end
  if run == ARGV[3] then return 0 end
  if start > now then  -- the clock was set back
    start = now
    put('start', whole(start))
  end
  local due = start + ARGV[4] * 1000
  if start > 0 and due > now then return milliseconds(due - now) end
  put('start', whole(now), 'run', ARGV[3])
  return 0

elseif what == 'look' then
  -- -> {token, ms since it was given, ms until the lease ends, ms since the last run began or -1, about}
  if token == 0 then return {} end
  local left = leads and milliseconds(ends - now) or 0
  return {token, milliseconds(now - since), left, start > 0 and milliseconds(now - start) or -1, about}
end

return redis.error_reply('ERR unknown operation')
