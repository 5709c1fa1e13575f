-- Tells which patterns were deleted in an outage, and when: a hash of pattern to stamp, where the newest stamp wins.
--
-- KEYS[1] the hash
-- ARGV[1] how long it is kept from now on, in ms
-- ARGV[2] how many patterns it may hold; more become the one pattern "*" with the newest stamp
-- ARGV[3], ARGV[4], ... pattern, stamp, pattern, stamp, ...

for i = 3, #ARGV, 2 do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  if not old or newer(ARGV[i + 1], old) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end

if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[2]) then
  local newest = ''
  for _, stamp in ipairs(redis.call('HVALS', KEYS[1])) do
    if newer(stamp, newest) then newest = stamp end
  end
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], '*', newest)
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
