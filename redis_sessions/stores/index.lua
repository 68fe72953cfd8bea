-- The index of one principal: KEYS[1] is a hash of session ids. ARGV[1] says what to do.
-- A field holds "L authenticated seen expires descriptor" for a session, "E expires marked" where
-- one ended, "K expires" for one that a revocation kept though its entry was lost; `revoked` holds
-- "revoked_at expires", `last` when one was entered last. Milliseconds, on this server's own clock.

local key, what = KEYS[1], ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local SAMPLE, HOUR = 8, 3600000

local function number(n) return string.format('%.0f', n) end

local function get(id)
  local value = redis.call('HGET', key, id)
  if not value then return nil end
  local kind = string.sub(value, 1, 1)
  if kind == 'K' then return {kept = true} end
  if kind == 'E' then
    local expires, marked = string.match(value, '^E (%d+) (%d+)$')
    return {ended = true, expires = tonumber(expires or now), marked = tonumber(marked or now)}
  end
  local authenticated, seen, expires, descriptor = string.match(value, '^L (%d+) (%d+) (%d+) (.*)$')
  if not expires then return nil end  -- not ours
  return {
    authenticated = tonumber(authenticated), seen = tonumber(seen),
    expires = tonumber(expires), descriptor = descriptor,
  }
end

local function revoked()
  local value = redis.call('HGET', key, 'revoked')
  return value and tonumber(string.match(value, '^(%d+)') or -1) or -1
end

-- A write lets a few entries go whose time is over, and the hash outlives its longest entry.
local function keep_until(expires)
  local sample = redis.call('HRANDFIELD', key, SAMPLE, 'WITHVALUES')
  for i = 1, #sample, 2 do
    local value = sample[i + 1]
    local over = string.match(value, '^E (%d+)') or string.match(value, '^L %d+ %d+ (%d+)')
      or string.match(value, '^K (%d+)') or string.match(value, '^%d+ (%d+)$')
    if over and tonumber(over) <= now then redis.call('HDEL', key, sample[i]) end
  end
  local ttl = math.max(1, expires - now)
  if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, number(ttl)) end
end

local function put(id, authenticated, seen, expires, descriptor)
  redis.call('HSET', key, id,
    'L ' .. number(authenticated) .. ' ' .. number(seen) .. ' ' .. number(expires) .. ' ' .. descriptor)
  keep_until(expires)
end

-- A sign-out must not fail for want of memory: a script that has written is past that check.
local function pass_memory_check()
  local ttl = redis.call('PTTL', key)
  if ttl > 0 then redis.call('PEXPIRE', key, ttl) end
end

local function mark(id, expires)
  redis.call('HSET', key, id, 'E ' .. number(expires) .. ' ' .. number(now))
end

if what == 'enter' then
  -- id, age, own revoked_at (-1), ttl, descriptor -> {status, authenticated, size, now, revoked_at}
  local id, age, own, ttl, descriptor = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
  local authenticated = math.max(now - age, own + 1)
  local entry = get(id)
  if entry and entry.ended then return {'ended', 0, 0, 0, 0} end
  local at = revoked()
  if at >= authenticated and at > own then return {'refused', 0, 0, 0, 0} end
  -- No two sign-ins are seen at the same time: max_sessions ends the earlier.
  local last = tonumber(redis.call('HGET', key, 'last') or 0) or 0
  local seen = math.max(now, last + 1)
  redis.call('HSET', key, 'last', number(seen))
  put(id, authenticated, seen, now + ttl, descriptor)
  return {'live', number(authenticated), redis.call('HLEN', key) - 1, number(now), number(at)}

elseif what == 'touch' then
  -- id, authenticated, ttl (0: only ask), descriptor, vouched, overtaken, age (-1: as it is)
  local id, authenticated, ttl, descriptor = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
  local vouched, overtaken, age = ARGV[6] == '1', ARGV[7] == '1', tonumber(ARGV[8])
  local entry = get(id)
  if entry and entry.ended then return {'ended', 0} end
  local over = revoked() >= authenticated
  if ttl == 0 then
    local kept = entry and entry.kept and 'kept'
    return {kept or entry and 'live' or over and 'overtaken' or 'missing', 0}
  end
  if not entry and (over or overtaken) and not vouched then return {'ended', 0} end
  if age >= 0 then authenticated = now - age end
  put(id, authenticated, now, now + ttl, descriptor ~= '' and descriptor or entry and entry.descriptor or '')
  return {'live', number(authenticated)}

elseif what == 'end' then
  -- id, ttl -> 1 if it was live
  local id, entry = ARGV[2], get(ARGV[2])
  pass_memory_check()  -- first of all: whoever asks again must not be confirmed what nobody wrote
  if entry and entry.ended then return 0 end
  local expires = entry and entry.expires or now + tonumber(ARGV[3])
  mark(id, expires)
  keep_until(expires)
  return (entry and not entry.kept) and 1 or 0

elseif what == 'end_all' then
  -- id to keep (''), how long to remember -> {revoked_at, ended, again}
  local keep, memory = ARGV[2], tonumber(ARGV[3])
  local ended, again = {}, {}
  pass_memory_check()
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local id, value = all[i], all[i + 1]
    local kind = string.sub(value, 1, 1)
    if id == keep then
      -- stays as it is
    elseif kind == 'L' then
      local expires = tonumber(string.match(value, '^L %d+ %d+ (%d+)') or 0)
      if expires > now then
        mark(id, expires)
        ended[#ended + 1] = id
      else
        redis.call('HDEL', key, id)
      end
    elseif kind == 'E' then
      local expires, marked = string.match(value, '^E (%d+) (%d+)$')
      if tonumber(expires or 0) <= now then
        redis.call('HDEL', key, id)
      elseif now - tonumber(marked) <= HOUR then
        again[#again + 1] = id
      end
    elseif kind == 'K' then
      redis.call('HDEL', key, id)
    end
  end
  redis.call('HSET', key, 'revoked', number(now) .. ' ' .. number(now + memory))
  if keep ~= '' and not get(keep) then redis.call('HSET', key, keep, 'K ' .. number(now + memory)) end
  keep_until(now + memory)
  return {number(now), ended, again}
end

return redis.error_reply('ERR unknown operation')
