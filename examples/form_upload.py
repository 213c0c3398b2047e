"""Post a form with a file, and show how far it is. The file is read while it is sent, in little memory."""

import tempfile

from server import example_server

from clientrequest import MultipartForm, request

with example_server() as url, tempfile.TemporaryFile() as photo:
    photo.write(bytes(range(256)) * 80_000)
    photo.seek(0)

    # A pipe, an upload of a web framework or a generator would do as well: what has no size is sent in chunks.
    form = MultipartForm({"title": "Harbour at night", "tags": ["sea", "lights"]})
    form.add_file("photo", photo, filename="harbour.jpg")

    upload = request(url + "/upload", method="POST")
    upload.on("upload-progress", lambda sent, total: print(f"{sent / total:4.0%} of {total} bytes"))
    answer = upload.send(form).get_response().raise_for_status().json()
    print("all of it arrived:", answer["bytes"] == form.content_length)
