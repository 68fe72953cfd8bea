-- Compare-and-set of many records. For KEYS[i], three arguments:
--   expected   the version (33 bytes) that must be stored; "" nothing must be; "*" end it;
--              "<" a record must be that was rotated earlier than the new one
--   value      the new record, or a tombstone (33 bytes, a version alone)
--   ttl        milliseconds
-- Answers, for each: 1 stored (or ended), 0 conflict, -1 gone (or ended before), or an error's text.
-- No `#!lua` line: with it Redis 7 refuses the whole script where one item would fail.

local VERSION = 33

local function rotated_at(header)
  -- Not by `<` on strings, which goes by the server's locale.
  local a, b, c, d = string.byte(header, 6, 9)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

local function commit(key, expected, value, ttl)
  local head = redis.pcall('GETRANGE', key, 0, VERSION)
  if type(head) == 'table' then return head end
  local version, tombstone = string.sub(head, 1, VERSION), #head == VERSION

  if expected == '<' then
    if #head <= VERSION or rotated_at(head) >= rotated_at(value) then return 0 end
  elseif version == string.sub(value, 1, VERSION) then
    local renewed = redis.pcall('PEXPIRE', key, ttl)
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
    -- A tombstone is smaller than what it replaces, and a sign-out must not fail for want of
    -- memory, nor a rotation that is repeated: a script that has written already is past the
    -- server's check.
    redis.pcall('PEXPIRE', key, ttl)
  end
  local missing = expected == '*' and head == ''
  if missing then
    -- One that differs in a random byte: to a retry it is another's, so that it answers the same.
    local last = (string.byte(value, VERSION) + 1) % 256
    value = string.sub(value, 1, VERSION - 1) .. string.char(last)
  end
  local stored = redis.pcall('SET', key, value, 'PX', ttl)
  if stored.err then return stored end
  return missing and -1 or 1
end

local answers = {}
for i, key in ipairs(KEYS) do
  local answer = commit(key, ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i])
  if type(answer) == 'table' then
    -- A demoted primary: the client has to hear of it, not the item.
    if string.find(answer.err, 'READONLY', 1, true) then return answer end
    answer = answer.err
  end
  answers[i] = answer
end
return answers
