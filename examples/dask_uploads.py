"""Uploads by many processes, or machines: dask hands them out, gathers their progress, and tries failed ones again."""

from distributed import Client, LocalCluster, get_worker
from server import example_server

from clientrequest import ClientRequest, ConnectError, Timeout

BLOCK = bytes(1_000_000)


def upload(options, number, blocks):
    """Runs in a process of the cluster. "partition" names the session that all uploads of one process share."""
    worker = get_worker()
    request = ClientRequest(options, method="POST", chunked_encoding=True)
    request.on("upload-progress", lambda current, total: worker.log_event("uploads", (number, current)))
    with request:  # if this fails, or the process dies, half a body never passes for a whole one
        request.pipe_from(BLOCK for _ in range(blocks))
    response = request.get_response()
    if response.status_code != 200:  # dask tries again what raises
        raise RuntimeError(f"{response.status_code} {response.status_message}")
    return response.json()["bytes"]


def main(url):
    sent = {}
    options = {"url": url + "/upload", "partition": "uploads", "timeout": Timeout(connect=5)}
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster, Client(cluster) as client:
        client.subscribe_topic("uploads", lambda event: sent.update([event[1]]))
        futures = {count: client.submit(upload, options, count, blocks=count, retries=2) for count in range(1, 9)}
        arrived = client.gather(futures)
        print(sum(arrived.values()), "bytes arrived, of which was told here on the way:", sum(sent.values()))
        try:
            client.submit(upload, {"url": "http://127.0.0.1:9/"}, 0, blocks=1, retries=1).result()
        except ConnectError as error:  # that of the last try, as it was in the other process
            print("nobody is there:", error.code)


if __name__ == "__main__":
    with example_server() as url:
        main(url)
