-- One stamped write, applied only if it is newer than the last stamped write of this key.
--
-- KEYS[1] the key                 KEYS[2] its fence
-- ARGV[1] stamp (16 bytes) and kind (1 byte) of this write: its fence
-- ARGV[2] how long the fence is kept, in ms
-- ARGV[3] the value; absent: delete the key
-- ARGV[4] the value's time to live in ms; absent: for ever
--
-- Returns 1 if applied, 0 if the fence is as new or newer.

local SWEEP = 3

-- Byte by byte: Lua's own < asks strcoll, and Redis takes its collation from the environment.
local function newer(a, b)
  for i = 1, #a do
    local x, y = string.byte(a, i), string.byte(b, i) or -1
    if x ~= y then return x > y end
  end
  return false
end

local fence = redis.call('GET', KEYS[2])
if fence and not newer(ARGV[1], fence) then return 0 end

-- A sweep raises the fences that it meets and makes no new ones: a large namespace would double its keys.
if fence or string.byte(ARGV[1], -1) ~= SWEEP then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end
if not ARGV[3] then
  redis.call('UNLINK', KEYS[1])
elseif ARGV[4] then
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
else
  redis.call('SET', KEYS[1], ARGV[3])
end
return 1
