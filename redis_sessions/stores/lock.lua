-- A lock: KEYS[1] holds the value of whoever has it. ARGV: a value, and milliseconds.
-- Takes it for so long, if it is free; gives it back, if the milliseconds are 0.
-- Answers 1 if it is this value's, or was until now; also to a repeated call, whose first answer
-- may have been lost.

local held = redis.call('GET', KEYS[1])
if ARGV[2] == '0' then
  return held == ARGV[1] and redis.call('DEL', KEYS[1]) or 0
end
if not held then redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) end
return (not held or held == ARGV[1]) and 1 or 0
