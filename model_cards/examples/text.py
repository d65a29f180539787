from openai import OpenAI

client = OpenAI(base_url="http://localhost:8000/v1", api_key="none")
answer = client.chat.completions.create(
    model="org/model",
    messages=[{"role": "user", "content": "Write a function that reverses a list in place."}],
    max_tokens=512,
)
print(answer.choices[0].message.content)
