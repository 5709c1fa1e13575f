-- One stamped write, applied only if it is newer than the last stamped write of this key.
--
-- KEYS[1] the key                 KEYS[2] its fence               KEYS[3] its shares, if it is a counter; see count.lua
-- ARGV[1] stamp (16 bytes) and kind (1 byte) of this write: its fence
-- ARGV[2] how long the fence is kept, in ms
-- ARGV[3] 'NX': only if there is no such key; 'XX': only if there is one; 'AGAIN': a plain write that was given up may have
--         replaced what stands here: also if this very write was applied already, and where a newer one was, the key is deleted,
--         for its value may be that of the plain write; else ''
-- ARGV[4] the value; absent: delete the key
-- ARGV[5] the value's time to live in ms; absent: for ever
--
-- Returns the fence, a string, if that is as new or newer; nil if there was or was no such key, against ARGV[3]; otherwise the
-- write was applied: an array of one number, of a delete whether there was such a key.
--
-- What was counted after this write stays counted: writes and shares may come in any order.

local INVALIDATE = 0
local SWEEP = 3
local NOBODY = string.rep('\0', 8)

-- A server that may have forgotten its last seconds: somebody, who is not known, changed the key then.  A counter has been
-- counted, most likely: it is better too small than gone.
if string.byte(ARGV[1], 17) == INVALIDATE and string.sub(ARGV[1], 9, 16) == NOBODY then
  if redis.call('EXISTS', KEYS[3]) == 1 then return false end
end

local condition = ARGV[3]
if condition == 'NX' or condition == 'XX' then
  local exists = redis.call('EXISTS', KEYS[1]) == 1
  if exists == (condition == 'NX') then return false end
end

local fence = redis.call('GET', KEYS[2])
if condition == 'AGAIN' then
  if fence and newer(fence, ARGV[1]) then
    redis.call('UNLINK', KEYS[1])
    return fence
  end
elseif fence and not newer(ARGV[1], fence) then
  return fence
end

-- A sweep raises the fences that it meets and makes no new ones: a large namespace would double its keys.
if fence or string.byte(ARGV[1], 17) ~= SWEEP then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end

local counted = redis.call('HGETALL', KEYS[3])
local left, before = -2, nil
if #counted > 0 then
  left = redis.call('PTTL', KEYS[1])
  before = redis.pcall('GET', KEYS[1])
end

local existed = 1
if not ARGV[4] then
  existed = redis.call('UNLINK', KEYS[1])
elseif ARGV[5] then
  redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
else
  redis.call('SET', KEYS[1], ARGV[4])
end
if left == -2 then return {existed} end

local after
for i = 2, #counted, 2 do
  if not newer(string.sub(ARGV[1], 1, 16), string.sub(counted[i], 1, 16)) then
    after = redis.pcall('INCRBY', KEYS[1], string.sub(counted[i], 33))
  end
end
if not ARGV[4] and type(after) == 'number' then
  -- Of plain writes since then nothing is known but what they left: never is there more after a delete than before it.
  local was = tonumber(before) or 0
  if was * after <= 0 then
    redis.call('UNLINK', KEYS[1])
  elseif math.abs(after) > math.abs(was) then
    redis.call('SET', KEYS[1], before)
  end
  if left > 0 then redis.call('PEXPIRE', KEYS[1], left) end
end
return {existed}
