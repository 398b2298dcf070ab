# The life of a lock with Ruby's Net::HTTP: life.rb URL.

require "json"
require "net/http"

BASE = URI(ARGV[0])
HTTP = Net::HTTP.new(BASE.host, BASE.port)
# Or it would send what is idempotent again by itself.
HTTP.max_retries = 0
HTTP.start

def call(method, path, body, timeout)
  HTTP.read_timeout = timeout
  HTTP.send_request(method, path, body)
end

def expect(status, method, path, body = nil)
  answer = call(method, path, body, 60)
  abort "#{method} #{path}: #{answer.code} in place of #{status}: #{answer.body}" if answer.code.to_i != status
  answer
end

def lock(wait, lifetime)
  { title: "Ruby", wait: wait, lifetime: lifetime }.to_json
end

expect(201, "POST", "/locks/life", lock(0, 1))
expect(408, "POST", "/locks/life", lock(0.2, 60))
granted = expect(201, "POST", "/locks/life", lock(30, 60))
path = URI(granted["Location"]).path
abort granted.body unless JSON.parse(granted.body)["active"] == true
renewed = expect(200, "PATCH", path, '{"lifetime":30}')
abort renewed.body unless JSON.parse(renewed.body)["lifetime"] == 30
expect(200, "GET", path)
begin
  call("POST", "/locks/life", lock(30, 60), 0.5)
  abort "there was no time-out"
rescue Net::ReadTimeout
end
expect(204, "DELETE", path)
expect(404, "DELETE", path)
expect(413, "POST", "/locks/life", " " * 70_000)
100.times { expect(200, "GET", "/") }
