-- A new time to live for the value that is there, whichever that is.
--
-- KEYS[1] the key                 KEYS[2] its fence               KEYS[3] its shares, if it is a counter; see count.lua
-- ARGV[1] the time to live in ms; empty: for ever
-- ARGV[2] the instance (8 bytes)  ARGV[3] how long the fence is kept, in ms
--
-- It is no newer write: who has one that is not here yet must not be refused for this.  So the fence, if there is one, is raised
-- by as little as there is: its counter by one.
--
-- Returns nil if there is no such key; an empty array if there is no fence, or if it is a counter, whose value contains what others
-- are told share by share; else the value (if it is a string) and the fence.

if redis.call('EXISTS', KEYS[1]) == 0 then return false end
if ARGV[1] ~= '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
else
  redis.call('PERSIST', KEYS[1])
end

local fence = redis.call('GET', KEYS[2])
local value = redis.pcall('GET', KEYS[1])
if not fence or type(value) ~= 'string' or redis.call('EXISTS', KEYS[3]) == 1 then return {} end
local counter = string.byte(fence, 7) * 256 + string.byte(fence, 8) + 1
if counter > 65535 then return {} end
local SET = 2
local raised = string.sub(fence, 1, 6) .. string.char(math.floor(counter / 256), counter % 256) .. ARGV[2]
redis.call('SET', KEYS[2], raised .. string.char(SET), 'PX', ARGV[3])
return {value, raised}
