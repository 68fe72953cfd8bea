-- Compare-and-set of a value that isn't a record of this library. KEYS[1] must hold ARGV[1], and gets
-- ARGV[2] for ARGV[3] milliseconds. The reply is 1 if it has it now, else 0. The script may be repeated.

local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] and held ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
