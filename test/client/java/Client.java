// A grpc-java client whose stubs were generated from the server's own reflection: every kind of call there is, checked. Prints one
// line a check, "ok NAME"; the first that fails ends it with a sentence.
import com.google.common.util.concurrent.ListenableFuture;
import com.google.protobuf.ByteString;
import grpc.health.v1.HealthGrpc;
import grpc.health.v1.HealthOuterClass;
import inference.GRPCInferenceServiceGrpc;
import inference.GrpcService;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.NettyChannelBuilder;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.TimeUnit;
import penstock.models.IrisGrpc;
import penstock.models.IrisPredictRequest;
import penstock.models.IrisPredictResponse;
import penstock.models.SpamGrpc;
import penstock.models.SpamPredictRequest;
import penstock.models.SpamPredictResponse;

final class Client {
    static final float[][] ROWS = {{5.1f, 3.5f, 1.4f, 0.2f}, {6.7f, 3.1f, 4.7f, 1.5f}, {6.3f, 3.3f, 6.0f, 2.5f}};

    static void check(boolean condition, String text) {
        if (!condition) {
            System.err.println(text);
            System.exit(1);
        }
    }

    static void expect(Status.Code code, String words, Runnable call) {
        try {
            call.run();
        } catch (StatusRuntimeException error) {
            String text = String.valueOf(error.getStatus().getDescription());
            check(error.getStatus().getCode() == code && text.contains(words), error + ", expected " + code + " with " + words);
            return;
        }
        check(false, "no error, expected " + code);
    }

    static ByteString floats(float... values) {
        ByteBuffer out = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
        for (float value : values)
            out.putFloat(value);
        out.flip();
        return ByteString.copyFrom(out);
    }

    static GrpcService.ModelInferRequest request(String model, String input, ByteString data, int id) {
        return GrpcService.ModelInferRequest.newBuilder().setModelName(model).setId(Integer.toString(id))
                .addInputs(GrpcService.ModelInferRequest.InferInputTensor.newBuilder().setName(input).setDatatype("FP32")
                        .addShape(1).addShape(data.size() / 4))
                .addRawInputContents(data).build();
    }

    static GrpcService.ModelInferRequest iris(int i) {
        return request("iris", "input", floats(ROWS[i % 3]), i);
    }

    static long label(GrpcService.ModelInferResponse answer) {
        for (int i = 0; i < answer.getOutputsCount(); i++)
            if (answer.getOutputs(i).getName().equals("label"))
                return answer.getRawOutputContents(i).asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN).getLong();
        return -1;
    }

    public static void main(String[] arguments) throws Exception {
        ManagedChannel channel = NettyChannelBuilder.forTarget(arguments[0]).usePlaintext().maxInboundMessageSize(1 << 30)
                .keepAliveTime(10, TimeUnit.SECONDS).build();
        GRPCInferenceServiceGrpc.GRPCInferenceServiceBlockingStub kserve =
                GRPCInferenceServiceGrpc.newBlockingStub(channel).withDeadlineAfter(100, TimeUnit.SECONDS);

        check(kserve.serverLive(GrpcService.ServerLiveRequest.getDefaultInstance()).getLive(), "not live");
        GrpcService.ModelMetadataResponse described =
                kserve.modelMetadata(GrpcService.ModelMetadataRequest.newBuilder().setName("iris").build());
        check(described.getPlatform().equals("onnxruntime_onnx") && described.getInputs(0).getShape(1) == 4, "" + described);
        System.out.println("ok metadata");

        GrpcService.ModelInferResponse answer = kserve.modelInfer(iris(2));
        check(label(answer) == 2 && answer.getId().equals("2"), "ModelInfer: " + answer);
        System.out.println("ok infer");

        check(kserve.withCompression("gzip").modelInfer(iris(2)).equals(answer), "with gzip the answer differs");
        System.out.println("ok gzip");

        byte[] big = new byte[16 << 20];
        new java.util.Random(1).nextBytes(big);
        ByteString sent = ByteString.copyFrom(big);
        check(kserve.modelInfer(request("echo_FP32", "IN", sent, 0)).getRawOutputContents(0).equals(sent), "16 MiB came back changed");
        System.out.println("ok large");

        GRPCInferenceServiceGrpc.GRPCInferenceServiceFutureStub later =
                GRPCInferenceServiceGrpc.newFutureStub(channel).withDeadlineAfter(100, TimeUnit.SECONDS);
        List<ListenableFuture<GrpcService.ModelInferResponse>> many = new ArrayList<>();
        for (int i = 0; i < 1000; i++)
            many.add(later.modelInfer(iris(i)));
        for (int i = 0; i < 1000; i++) {
            GrpcService.ModelInferResponse found = many.get(i).get(60, TimeUnit.SECONDS);
            check(label(found) == i % 3 && found.getId().equals(Integer.toString(i)), "call " + i + " of many: " + found);
        }
        System.out.println("ok many");

        expect(Status.Code.NOT_FOUND, "none", () -> kserve.modelInfer(request("none", "IN", floats(1), 0)));
        expect(Status.Code.UNIMPLEMENTED, "shared memory", () -> kserve.systemSharedMemoryStatus(
                GrpcService.SystemSharedMemoryStatusRequest.getDefaultInstance()));
        expect(Status.Code.DEADLINE_EXCEEDED, "", () -> kserve.withDeadlineAfter(200, TimeUnit.MILLISECONDS)
                .modelInfer(request("slow", "IN", floats(1), 0)));
        System.out.println("ok errors");

        IrisPredictResponse flower = IrisGrpc.newBlockingStub(channel).predict(
                IrisPredictRequest.newBuilder().setSepalLength(6.3f).setSepalWidth(3.3f).setPetalLength(6)
                        .setPetalWidth(2.5f).build());
        check(flower.getLabel().equals("virginica") && flower.getProbability() > 0.5, "Iris.Predict: " + flower);
        SpamPredictResponse text = SpamGrpc.newBlockingStub(channel).predict(
                SpamPredictRequest.newBuilder().setText("You won a prize").build());
        check(text.getLabel().equals("spam"), "Spam.Predict: " + text);
        expect(Status.Code.INVALID_ARGUMENT, "sepal_length", () -> IrisGrpc.newBlockingStub(channel).predict(
                IrisPredictRequest.newBuilder().setSepalLength(510).build()));
        System.out.println("ok typed");

        Context.CancellableContext watching = Context.current().withCancellation();
        watching.run(() -> {
            Iterator<HealthOuterClass.HealthCheckResponse> watch =
                    HealthGrpc.newBlockingStub(channel).watch(HealthOuterClass.HealthCheckRequest.getDefaultInstance());
            check(watch.next().getStatus() == HealthOuterClass.HealthCheckResponse.ServingStatus.SERVING, "not serving");
            watching.cancel(null);
            expect(Status.Code.CANCELLED, "", watch::next);
        });
        System.out.println("ok health");
        channel.shutdownNow().awaitTermination(10, TimeUnit.SECONDS);
    }
}
