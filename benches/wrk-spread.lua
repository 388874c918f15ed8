-- After wrk.lua, where every request goes to another of so many routes: `wrk … URL -- ROUTES`. The order is no order,
-- so that neither a processor's caches nor its branch predictors learn it.
local requests, turn = {}, 0
local KEPT = 4096 -- formatted once: the load must not cost more than what it measures

init = function(arguments)
  local routes = tonumber(arguments[1])
  math.randomseed(1)
  for i = 1, KEPT do
    requests[i] = wrk.format(nil, "/many/" .. math.random(0, routes - 1) .. "/x")
  end
end

request = function()
  turn = turn % KEPT + 1
  return requests[turn]
end
