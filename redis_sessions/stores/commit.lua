-- Compare-and-set of many records. Each of KEYS has three arguments:
--   expected   the version that must be stored. Or one of:
--              ""  nothing must be stored
--              "*" whatever is stored ends
--              "<" a record must be stored that was rotated earlier than the new one
--   value      the new record, or a tombstone
--   ttl        milliseconds
-- The reply has for each key: 1 stored (or ended), 0 conflict, -1 gone (or ended before), or the text
-- of an error.
-- There is no `#!lua` line. With it Redis 7 refuses the whole script if one item would fail.

-- The layout of stored bytes is that of redis_sessions/session/record.py: the first 33 bytes are the
-- version, and a tombstone is a version alone. Bytes 6 to 9, as Lua counts, are `rotated_at`.
local VERSION = 33

local function rotated_at(header)
  -- Lua's `<` on strings isn't used, since it goes by the server's locale.
  local a, b, c, d = string.byte(header, 6, 9)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

-- A client that tracks keys (CLIENT TRACKING) is told of the next change only if it has read a key
-- since the last one, and PEXPIRE is a change, too.
local function read_again(key)
  redis.pcall('GETRANGE', key, 0, 0)
end

local function commit(key, expected, value, ttl)
  local head = redis.pcall('GETRANGE', key, 0, VERSION)
  if type(head) == 'table' then return head end
  local version, tombstone = string.sub(head, 1, VERSION), #head == VERSION

  if expected == '<' then
    if #head <= VERSION or rotated_at(head) >= rotated_at(value) then return 0 end
  elseif version == string.sub(value, 1, VERSION) then
    local renewed = redis.pcall('PEXPIRE', key, ttl)
    read_again(key)
    return type(renewed) == 'table' and renewed or 1
  elseif expected == '*' then
    if tombstone then
      local renewed = redis.pcall('PEXPIRE', key, ttl)
      return type(renewed) == 'table' and renewed or -1
    end
  elseif tombstone or (head == '' and expected ~= '') then
    return -1
  elseif version ~= expected then
    return 0
  end

  if (#value == VERSION and head ~= '') or expected == '<' then
    -- A sign-out must not fail for want of memory, nor must a rotation that is repeated. The server
    -- checks its memory only until a script has written something, which this command does.
    redis.pcall('PEXPIRE', key, ttl)
  end
  local missing = expected == '*' and head == ''
  if missing then
    -- A retry must answer the same. So the tombstone that is stored isn't the one that was sent.
    local last = (string.byte(value, VERSION) + 1) % 256
    value = string.sub(value, 1, VERSION - 1) .. string.char(last)
  end
  local stored = redis.pcall('SET', key, value, 'PX', ttl)
  if stored.err then return stored end
  read_again(key)
  return missing and -1 or 1
end

local answers = {}
for i, key in ipairs(KEYS) do
  local answer = commit(key, ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i])
  if type(answer) == 'table' then
    -- This server is a primary no more. The client has to know it, rather than the item.
    if string.find(answer.err, 'READONLY', 1, true) then return answer end
    answer = answer.err
  end
  answers[i] = answer
end
return answers
