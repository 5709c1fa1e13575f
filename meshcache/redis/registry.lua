-- Registers an instance of the namespace for a while, and tells of all others.
--
-- KEYS[1] a hash: instance to the moment at which its lease ends (ms, by this server's clock), the number of the registration
--         and what was registered, with spaces between them
-- ARGV[1] the instance            ARGV[2] what it registers
-- ARGV[3] its lease in ms         ARGV[4] how long it is remembered after that, in ms
-- ARGV[5] the number: one that was given up, and comes after a newer one, changes nothing
--
-- Returns for each of the others: its name, what remains of its lease in ms (negative: it has ended), what it registered.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HGET', KEYS[1], ARGV[1])
local number = known and tonumber(string.match(known, '^%d+ (%d+) '))
if not number or number < tonumber(ARGV[5]) then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s ', now + ARGV[3], ARGV[5]) .. ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3] + ARGV[4])
end

local others = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local ends, registered = string.match(all[i + 1], '^(%d+) %d+ (.*)$')
  local left = ends and ends - now
  if not left or left < -ARGV[4] then
    redis.call('HDEL', KEYS[1], all[i])
  elseif all[i] ~= ARGV[1] then
    others[#others + 1] = {all[i], left, registered}
  end
end
return others
