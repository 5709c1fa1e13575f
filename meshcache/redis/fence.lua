-- One stamped write, applied only if it is newer than the last stamped write of this key.
--
-- KEYS[1] the key                 KEYS[2] its fence
-- ARGV[1] stamp (16 bytes) and kind (1 byte) of this write: its fence
-- ARGV[2] how long the fence is kept, in ms
-- ARGV[3] 'NX': only if there is no such key; 'XX': only if there is one; else ''
-- ARGV[4] the value; absent: delete the key
-- ARGV[5] the value's time to live in ms; absent: for ever
--
-- Returns the fence, a string, if that is as new or newer; nil if there was or was no such key, against ARGV[3]; otherwise the
-- write was applied: an array of one number, of a delete whether there was such a key.

local SWEEP = 3

local condition = ARGV[3]
if condition ~= '' then
  local exists = redis.call('EXISTS', KEYS[1]) == 1
  if exists == (condition == 'NX') then return false end
end

local fence = redis.call('GET', KEYS[2])
if fence and not newer(ARGV[1], fence) then return fence end

-- A sweep raises the fences that it meets and makes no new ones: a large namespace would double its keys.
if fence or string.byte(ARGV[1], 17) ~= SWEEP then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end

if not ARGV[4] then return {redis.call('UNLINK', KEYS[1])} end
if ARGV[5] then
  redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
else
  redis.call('SET', KEYS[1], ARGV[4])
end
return {1}
