// The life of a lock with Java's HttpClient: Life.java URL.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.HttpTimeoutException;
import java.time.Duration;

class Life {
    static final HttpClient CLIENT = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    static String base;

    static HttpResponse<String> call(String method, String path, String body, Duration timeout)
            throws Exception {
        var publisher = body.isEmpty() ? BodyPublishers.noBody() : BodyPublishers.ofString(body);
        var request = HttpRequest.newBuilder(URI.create(base + path)).timeout(timeout);
        return CLIENT.send(request.method(method, publisher).build(), BodyHandlers.ofString());
    }

    static HttpResponse<String> expect(int status, String method, String path, String body)
            throws Exception {
        var answer = call(method, path, body, Duration.ofMinutes(1));
        if (answer.statusCode() != status) {
            throw new Exception(method + " " + path + ": " + answer.statusCode() + " " + answer.body());
        }
        return answer;
    }

    static String lock(String wait, String lifetime) {
        return "{\"title\":\"Java\",\"wait\":" + wait + ",\"lifetime\":" + lifetime + "}";
    }

    static void contains(String text, String part) throws Exception {
        if (!text.contains(part)) {
            throw new Exception("no " + part + " in " + text);
        }
    }

    public static void main(String[] args) throws Exception {
        base = args[0];
        expect(201, "POST", "/locks/life", lock("0", "1"));
        expect(408, "POST", "/locks/life", lock("0.2", "60"));
        var granted = expect(201, "POST", "/locks/life", lock("30", "60"));
        var path = URI.create(granted.headers().firstValue("Location").get()).getPath();
        contains(granted.body(), "\"active\":true");
        contains(expect(200, "PATCH", path, "{\"lifetime\":30}").body(), "\"lifetime\":30");
        expect(200, "GET", path, "");
        try {
            call("POST", "/locks/life", lock("30", "60"), Duration.ofMillis(500));
            throw new Exception("there was no time-out");
        } catch (HttpTimeoutException expected) {
        }
        expect(204, "DELETE", path, "");
        expect(404, "DELETE", path, "");
        expect(413, "POST", "/locks/life", " ".repeat(70_000));
        for (int n = 0; n < 100; n++) {
            expect(200, "GET", "/", "");
        }
    }
}
