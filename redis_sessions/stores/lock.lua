-- A lock: KEYS[1] holds the value of whoever has it. ARGV is a value, and milliseconds.
-- If the milliseconds are 0, the lock is released. Otherwise it is acquired for so long, if it is free.
-- The reply is 1 if the lock is this value's, or was until now. The script may be repeated, since the
-- first reply may have been lost: an acquisition then answers the same.

local held = redis.call('GET', KEYS[1])
if ARGV[2] == '0' then
  return held == ARGV[1] and redis.call('DEL', KEYS[1]) or 0
end
if not held then redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) end
return (not held or held == ARGV[1]) and 1 or 0
