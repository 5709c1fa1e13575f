-- Brings one share of a counter to Redis: adds what its owner has counted since the last time, exactly once, whoever brings it.
--
-- KEYS[1] the counter             KEYS[2] its fence
-- KEYS[3] a hash: share to what was added of it: series (16 bytes), stamp (16 bytes), sum (decimal)
-- ARGV[1] the share               ARGV[2] its series: the stamp of its first increment
-- ARGV[3] the stamp of its newest increment
-- ARGV[4] its sum, decimal: all that was counted in this series
-- ARGV[5] how long this is remembered, in ms
-- ARGV[6] the time to live in ms of a counter that is made by this; '' for ever
-- ARGV[7] 'NOW': an increment of this moment, so it follows whatever the fence says; '': it may be old
-- ARGV[8] what was added before this stamp need not be remembered
--
-- Returns the fence, a string, if the counter was set or deleted after the series began: nothing is added.  Otherwise an array: the
-- value, what remains of its time to live as PTTL says it, and, if the series is older than the fence, the fence.

local SLACK = 15000  -- of the time for which it is remembered: a counter that is counted often costs less

local fence = redis.call('GET', KEYS[2])
local is_outdated = fence and newer(string.sub(fence, 1, 16), ARGV[2])
if is_outdated and ARGV[7] ~= 'NOW' then return fence end

local left = redis.call('PTTL', KEYS[1])
local value
local known = redis.call('HGET', KEYS[3], ARGV[1])
if not known or newer(ARGV[3], string.sub(known, 17, 32)) then
  local by = ARGV[4]
  if known and string.sub(known, 1, 16) == ARGV[2] then
    by = string.format('%.0f', by - string.sub(known, 33))
  end
  value = redis.pcall('INCRBY', KEYS[1], by)
  if type(value) == 'table' then return value end
  if left == -2 then
    left = -1
    if ARGV[6] ~= '' then
      redis.call('PEXPIRE', KEYS[1], ARGV[6])
      left = tonumber(ARGV[6])
    end
  end
  local is_new = redis.call('HSET', KEYS[3], ARGV[1], ARGV[2] .. ARGV[3] .. ARGV[4]) == 1
  if redis.call('PTTL', KEYS[3]) < ARGV[5] - SLACK then
    redis.call('PEXPIRE', KEYS[3], ARGV[5])
  end
  if is_new and redis.call('HLEN', KEYS[3]) % 64 == 0 then
    local all = redis.call('HGETALL', KEYS[3])
    for i = 1, #all, 2 do
      if newer(ARGV[8], string.sub(all[i + 1], 17, 32)) then redis.call('HDEL', KEYS[3], all[i]) end
    end
  end
end
if not value then value = tonumber(redis.call('GET', KEYS[1]) or 0) or 0 end
if math.abs(value) >= 2^53 then value = redis.call('GET', KEYS[1]) end  -- Lua's numbers are doubles
return {value, left, is_outdated and fence or nil}
