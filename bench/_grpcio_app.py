"""The usual Python server: grpcio with a pool of threads, ONNX Runtime behind it. KServe's ModelInfer, as a generic handler.

    python _grpcio_app.py PORT MODEL.onnx        any other model name is answered with its own tensors
"""
import concurrent.futures
import sys

import grpc
import numpy
import onnxruntime
from tritonclient.grpc import service_pb2

DTYPES = {"float32": "FP32", "int64": "INT64"}


class App(grpc.GenericRpcHandler):
    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.name = path.rsplit("/", 1)[-1].split(".")[0]
        self.names = [output.name for output in self.session.get_outputs()]
        self.handler = grpc.unary_unary_rpc_method_handler(
            self.infer, request_deserializer=service_pb2.ModelInferRequest.FromString,
            response_serializer=service_pb2.ModelInferResponse.SerializeToString)

    def service(self, call):
        return self.handler if call.method == "/inference.GRPCInferenceService/ModelInfer" else None

    def infer(self, request, context):
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        if request.model_name != self.name:
            tensor = request.inputs[0]
            answer.outputs.add(name="OUT", datatype=tensor.datatype, shape=tensor.shape)
            answer.raw_output_contents.append(request.raw_input_contents[0])
            return answer
        feed = {tensor.name: numpy.frombuffer(raw, dtype=numpy.float32).reshape(tensor.shape)
                for tensor, raw in zip(request.inputs, request.raw_input_contents)}
        for name, array in zip(self.names, self.session.run(None, feed)):
            answer.outputs.add(name=name, datatype=DTYPES[array.dtype.name], shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        return answer


def main():
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(10), options=unlimited)
    server.add_generic_rpc_handlers((App(sys.argv[2]),))
    server.add_insecure_port("127.0.0.1:" + sys.argv[1])
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
