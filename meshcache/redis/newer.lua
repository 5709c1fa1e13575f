-- Shared by the scripts of this folder: put before each of them.
--
-- Byte by byte: Lua's own < asks strcoll, and Redis takes its collation from the environment.
local function newer(a, b)
  for i = 1, #a do
    local x, y = string.byte(a, i), string.byte(b, i) or -1
    if x ~= y then return x > y end
  end
  return false
end
