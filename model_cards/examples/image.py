import base64
from pathlib import Path

from openai import OpenAI

picture = base64.b64encode(Path("image.png").read_bytes()).decode()
client = OpenAI(base_url="http://localhost:8000/v1", api_key="none")
answer = client.chat.completions.create(
    model="org/model",
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64," + picture}},
                {"type": "text", "text": "Describe this image."},
            ],
        }
    ],
    max_tokens=512,
)
print(answer.choices[0].message.content)
