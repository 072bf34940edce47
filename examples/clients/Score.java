// java Score.java http://127.0.0.1:8080 (Java 17 or newer)

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;

public class Score {
    // One client for all requests: it keeps connections open. The service speaks HTTP/1.1.
    private static final HttpClient CLIENT = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    public static void main(String[] arguments) throws Exception {
        String body = """
            {
              "user_id": "gardener",
              "candidates": {"id": ["ice-axes-1", "greenhouses-1"], "bid": [1.20, 0.40]},
              "top_k": 2
            }
            """;
        HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0] + "/v1/score"))
            .header("Content-Type", "application/json")
            .timeout(Duration.ofSeconds(2))
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
        HttpResponse<String> reply = CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
        if (reply.statusCode() != 200) {
            throw new IllegalStateException(reply.statusCode() + ": " + reply.body());
        }
        System.out.println(reply.body());
    }
}
